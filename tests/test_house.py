"""Imports point one way: flows → auditor, storage, reports; reports → storage; nothing else. Data are never run as code.

`clear_audit` imports what it starts by name, when it is to be started. Inside a package imports point one way as well, and in no
circle.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "auditor": {"auditor"},
    "storage": {"storage"},
    "reports": {"reports", "storage"},
    "flows": {"flows", "auditor", "storage", "reports"},
    "clear_audit": {"clear_audit", "auditor"},
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & set(MAY_IMPORT) <= MAY_IMPORT[package], path


GROUPS = {
    "auditor": [
        *(
            "errors",
            "images",
            "colour_maps",
            "interpretation",
            "statistics",
            "operations",
            "kernels",
            "backward",
            "folding",
            "enlarging",
        ),
        *("clear", "conservation", "measurement", "trust", "data_checks"),
    ],
    "storage": [
        *("errors", "options", "text", "filesystems", "addresses", "local_cache", "json_records", "statistics", "tables", "maps"),
        *("datasets", "models", "operators", "rule_choices", "runs", "sql", "joins", "aggregates"),
    ],
    "reports": ["formats", "queries", "context", "figures", "comparison", "gates", "parts", "sections", "pages"],
    "flows": [
        *("errors", "streams", "preload", "demo", "sections", "runtime", "analyses", "config", "stages", "orchestration", "cli"),
    ],
}
"""Of a package, all its folders and files in order: each imports itself and those before it. The package's own file, any."""


def modules_of(package: str, root: Path = ROOT) -> dict[str, Path]:
    """The files of a package by their dotted names."""
    found = {}
    for path in (root / package).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_within(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Which of the modules each of them imports, wherever in it, and for types alone as well."""
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # From a package either one of its modules, or what its own file holds.
                within = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= within if within <= set(modules) else within | {node.module}
        found[name] &= set(modules)
    return found


def in_circles(imports: dict[str, set[str]]) -> set[str]:
    """The modules that import themselves by way of others."""

    def reached(name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = imports[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    return {name for name in imports if name in reached(name)}


def against_the_order(imports: dict[str, set[str]], groups: list[str]) -> set[tuple[str, str]]:
    """The imports of a later group by an earlier one: (importing, imported)."""

    def place(name: str) -> int:
        group = [*name.split("."), ""][1]
        return groups.index(group) if group in groups else len(groups)

    return {(name, other) for name, others in imports.items() for other in others if place(other) > place(name)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_make_no_circle(package: str) -> None:
    assert in_circles(imports_within(modules_of(package))) == set()


@pytest.mark.parametrize("package", GROUPS)
def test_groups_of_a_package_import_those_before_them(package: str) -> None:
    imports = imports_within(modules_of(package))
    assert {name.split(".")[1] for name in imports if "." in name} == set(GROUPS[package]), "each has its place"
    assert against_the_order(imports, GROUPS[package]) == set()


def test_circles_and_arrows_against_the_order_are_found(tmp_path: Path) -> None:
    files = {
        "low/__init__.py": "",
        "low/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high.two import thing",
        "low/alone.py": "import math",
        "high/__init__.py": "",
        "high/two.py": "def later():\n    from house.low import one, alone",
        "__init__.py": "import house.high.two",
    }
    for name, source in files.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(source)
    imports = imports_within(modules_of("house", tmp_path))
    assert imports["house.high.two"] == {"house.low.one", "house.low.alone"}
    assert in_circles(imports) == {"house.low.one", "house.high.two"}
    assert against_the_order(imports, ["low", "high"]) == {("house.low.one", "house.high.two")}
    assert against_the_order(imports, ["high", "low"]) == {
        ("house.high.two", "house.low.one"),
        ("house.high.two", "house.low.alone"),
    }


OPENING_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
UNPICKLERS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
RUNNING_CODE = {"eval", "exec", "compile", "torch.jit.load", "torch.export.load", "pd.read_pickle", "os.system"}


def faults_of(source: str) -> list[str]:
    """What in a source file would run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keyword, wanted = UNPICKLERS.get(called, ("", None))
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in RUNNING_CODE or (keyword and given.get(keyword) != str(wanted)) or given.get("shell") == "True":
                found.append(called)
    return found


def test_what_runs_data_as_code_is_found() -> None:
    harmless = "torch.load(a, weights_only=True); np.load(a, allow_pickle=False); model.eval(); re.compile('a')"
    assert faults_of(harmless) == []
    harmful = "torch.load(a); torch.load(a, weights_only=False); np.load(a); eval(a); subprocess.run(a, shell=True)"
    assert faults_of(harmful) == ["torch.load", "torch.load", "np.load", "eval", "subprocess.run"]


def test_nothing_that_is_read_is_run_as_code() -> None:
    """The one way in for code is `model.factory`, which is imported by its name."""
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            assert not imported(path) & OPENING_CODE, path
            assert faults_of(path.read_text(encoding="utf-8")) == [], path
