"""The name that is ours alone: it finds our own packages whatever else has their names, and leaves others theirs."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import auditor
import clear_audit
from clear_audit.names import OWN
from flows.orchestration.schedule import ENTRYPOINT, deployed_audit
from storage.models.factories import OWN as OWN_OF_FACTORIES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that have the names of our packages, and end whoever imports them."""
    for name in OWN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is not ours')\n")
    return tmp_path


def python(hostile: Path, *arguments: str, **options: object) -> str:
    """What a process says in whose PYTHONPATH others' packages come first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(hostile), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_command_starts_whatever_pythonpath_says(hostile: Path) -> None:
    assert python(hostile, "-P", "-m", "clear_audit", "--version") == f"clear-audit {version('clear-audit')}\n"
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["clear-audit"]
    module, _, function = entry.partition(":")
    assert callable(getattr(import_module(module), function))
    script = f"import sys; from {module} import {function}; sys.argv = ['clear-audit', 'ls', '--help']; {function}()"
    assert "List the finished runs of a store" in python(hostile, "-P", "-c", script)


def test_the_processes_that_we_start_find_ours(hostile: Path) -> None:
    """A question's, which answers; a Dask worker's and a deployment's, as they are imported."""
    script = (
        "from clear_audit.names import own_packages_first; own_packages_first()\n"
        "from pathlib import Path; from storage.sql.sandboxed_query import ask\n"
        f"print(ask(Path({str(hostile)!r}), [], 'SELECT 1 AS one').to_pylist())"
    )
    assert python(hostile, "-P", "-c", script) == "[{'one': 1}]\n"
    assert (
        python(hostile, "-P", "-c", "import clear_audit.preload, flows.preload as made; print(made.dask_setup.__name__)")
        == "dask_setup\n"
    )
    module, _, name = ENTRYPOINT.rpartition(".")
    assert getattr(import_module(module), name) is deployed_audit


def test_the_public_api_in_a_process_that_is_not_ours(hostile: Path) -> None:
    """Of our packages only the science is needed, and the user's others stay the user's."""
    (hostile / "storage" / "__init__.py").write_text("WHOSE = 'the user'\n")
    script = "from clear_audit import Clear, __version__; import storage; print(Clear.__module__, __version__, storage.WHOSE)"
    assert python(hostile, "-P", "-c", script) == f"auditor.clear {version('clear-audit')} the user\n"


def test_another_package_that_is_loaded_under_our_name_is_named(hostile: Path) -> None:
    (hostile / "auditor" / "__init__.py").write_text("")
    script = "import auditor\ntry:\n    from clear_audit import Clear\nexcept ImportError as error:\n    print(error)"
    said = python(hostile, "-P", "-c", script)
    assert "clear_audit needs its own package 'auditor'" in said
    assert str(hostile / "auditor") in said


def test_it_has_all_of_the_science_and_imports_nothing_before_it_is_asked_for() -> None:
    assert {name: getattr(clear_audit, name) for name in auditor.__all__} == {
        name: getattr(auditor, name) for name in auditor.__all__
    }
    assert set(clear_audit.__all__) == {*auditor.__all__, "__version__"} == set(dir(clear_audit))
    with pytest.raises(AttributeError, match="module 'clear_audit' has no attribute 'Claer'"):
        clear_audit.Claer  # noqa: B018
    script = "import clear_audit, sys; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_the_names_that_are_ours_are_the_packages_that_are_installed() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    installed = {pattern.removesuffix("*") for pattern in included}
    assert {*OWN, "clear_audit"} == installed == OWN_OF_FACTORIES
