"""Imports point one way: flows → auditor, storage, reports; reports → storage; nothing else. Data are never run as code.

`clear_audit` imports what it starts by name, when it is to be started.
"""

import ast
from graphlib import TopologicalSorter
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


ROOMS = {
    "reports": (("formats", "queries", "context", "comparison"), ("gates",), ("parts",), ("sections",), ("pages",)),
}
"""Of a package, its files and folders in groups: a group imports itself and those before it."""


def modules_imported(path: Path) -> set[str]:
    """The modules that a file imports, with their packages: for `from a.b import c` both `a.b` and `a.b.c`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_of_a_package_import_one_way(package: str) -> None:
    place = {room: number for number, group in enumerate(ROOMS[package]) for room in group}
    files = [path for path in (ROOT / package).rglob("*.py") if path != ROOT / package / "__init__.py"]
    rooms = {path: path.relative_to(ROOT / package).with_suffix("").parts[0] for path in files}
    assert set(rooms.values()) == set(place)
    for path, room in rooms.items():
        for module in modules_imported(path):
            top, _, rest = module.partition(".")
            if top == package and rest:
                assert place[rest.split(".")[0]] <= place[room], f"{path} imports {module}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_imports_go_round(package: str) -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}
    graph = {name: (modules_imported(path) & set(files)) - {name} for name, path in files.items()}
    list(TopologicalSorter(graph).static_order())
