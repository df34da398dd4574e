"""Factories: where the user's modules are found, what of their faults is said, and what they leave behind."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from storage.errors import InputError
from storage.models.factories import FactorySpec, call_factory

FACTORY = """
import torch
from torch import nn

NUMBER = 3

def build(width=3, **more):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

def strict(width):
    return build(width)

def returns_text():
    return "a model"

def returns_nothing():
    build()

def returns_class():
    return Network

class Network(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(2, width)

class Speechless(Exception):
    def __str__(self):
        raise ValueError

def attribute(): return None.weights
def speechless(): raise Speechless
def lines(): raise ValueError("one\\n  two")
def leaves(): sys_exit(3)
def interrupts(): raise KeyboardInterrupt
def deep(): return torch.zeros(2).view(5)
def endless(): return endless()
def fits(): return build().load_state_dict({})

def sys_exit(code):
    import sys
    sys.exit(code)

def switches():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.inference_mode().__enter__()
    torch.autocast("cpu").__enter__()
    made = Network(4)
    torch.set_default_device("meta")
    return made

@torch.inference_mode()
def inference(): return build()

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

def meta():
    torch.set_default_device("meta")
    return build()
"""


def modules(folder: Path, **sources: str) -> None:
    """Writes modules; a name with two underscores is of one in a package."""
    for name, source in sources.items():
        path = folder / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a factory's module in it, that no other test knows."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    modules(tmp_path, factory_of_tests=FACTORY)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    assert {name for name, module in before.items() if sys.modules.get(name) is not module} == set()


def build(folder: Path, factory: str, said: list[str] | None = None, **arguments: Any) -> Any:
    return call_factory(FactorySpec(factory, None, arguments), str(folder), (said if said is not None else []).append)


def test_the_folder_is_where_the_module_is_found(folder: Path) -> None:
    with pytest.raises(InputError, match="module 'factory_of_tests' was not found; install it"):
        call_factory(FactorySpec("factory_of_tests:build"), None, print)
    said: list[str] = []
    assert isinstance(build(folder, "factory_of_tests:build", said), nn.Sequential)
    assert tuple(build(folder, "factory_of_tests:Network", width=4).layer.weight.shape) == (4, 2)
    assert said == []


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("factory_of_tests", {}, "is not of the form 'package.module:function'"),
        ("factory_of_tests:", {}, "is not of the form 'package.module:function'"),
        (":build", {}, "is not of the form 'package.module:function'"),
        ("", {}, "is not of the form 'package.module:function'"),
        (".factory_of_tests:build", {}, "is not of the form 'package.module:function'"),
        ("no_such_module:build", {}, "module 'no_such_module' was not found"),
        ("factory_of_tests.sub:build", {}, "module 'factory_of_tests.sub' was not found"),
        ("factory_of_tests:biuld", {}, "module 'factory_of_tests' has no function 'biuld'"),
        ("factory_of_tests:NUMBER", {}, "module 'factory_of_tests' has no function 'NUMBER'"),
        ("factory_of_tests:returns_text", {}, "returned str: it must return a torch.nn.Module"),
        ("factory_of_tests:returns_nothing", {}, "returned NoneType: it must return a torch.nn.Module"),
        ("factory_of_tests:returns_class", {}, "returned the class Network itself: it must return a torch.nn.Module"),
        ("factory_of_tests:strict", {"widht": 3}, "does not take model.arguments {'widht': 3}"),
        ("factory_of_tests:strict", {}, "missing a required argument: 'width'"),
    ],
)
def test_a_faulty_factory_is_named(folder: Path, factory: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(folder, factory, **arguments)
    assert f"model.factory '{factory}'" in str(caught.value)
    assert message in str(caught.value)


def line(text: str) -> int:
    return 1 + next(number for number, source in enumerate(FACTORY.splitlines()) if text in source)


@pytest.mark.parametrize(
    ("function", "raised", "where"),
    [
        ("attribute", "AttributeError: 'NoneType' object has no attribute 'weights'", "None.weights"),
        ("speechless", "Speechless", "raise Speechless"),
        ("lines", "ValueError: one two", "def lines"),
        ("leaves", "SystemExit: 3", "sys.exit(code)"),
        ("interrupts", "KeyboardInterrupt", "raise KeyboardInterrupt"),
        ("deep", "RuntimeError: shape '[5]' is invalid for input of size 2", "view(5)"),
        ("fits", "RuntimeError: Error(s) in loading state_dict for Sequential: Missing key(s)", "load_state_dict"),
    ],
)
def test_what_a_factory_raises_is_said_with_its_words_and_the_users_line(
    folder: Path, function: str, raised: str, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        build(folder, f"factory_of_tests:{function}")
    assert str(caught.value).startswith(f"model.factory 'factory_of_tests:{function}' raised {raised}")
    assert str(caught.value).endswith(f" (factory_of_tests.py, line {line(where)})")
    assert len(str(caught.value)) < 500


def test_a_factory_that_calls_itself_for_ever_is_said_by_an_error_that_a_worker_can_send(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'factory_of_tests:endless' raised RecursionError: .* line [0-9]+\)") as caught:
        build(folder, "factory_of_tests:endless")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None), "a thousand frames would go with it"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (\n", "the module of model.factory 'broken:build' raised SyntaxError: '(' was never closed (broken.py, line 1)"),
        ("\nx = undefined\n", "raised NameError: name 'undefined' is not defined (broken.py, line 2)"),
        ("import sys\nsys.exit('no')\n", "raised SystemExit: no (broken.py, line 2)"),
        ("from torch import no_such_name\n", "raised ImportError: cannot import name 'no_such_name' from 'torch'"),
        ("import a_package_of_nobody\n", "module 'a_package_of_nobody' was not found (broken.py, line 1); install it"),
        ("\nimport helper_of_tests\n", "raised ZeroDivisionError: division by zero (helper_of_tests.py, line 3)"),
    ],
)
def test_what_a_module_raises_when_it_is_imported_is_said(folder: Path, source: str, message: str) -> None:
    modules(folder, broken=source, helper_of_tests="\n\n1 / 0\n")
    with pytest.raises(InputError) as caught:
        build(folder, "broken:build")
    assert message in str(caught.value)


def test_what_installed_code_raises_is_said_with_its_own_file(folder: Path) -> None:
    modules(folder, site__package="def build():\n    raise KeyError('fc')\n")
    (folder / "site").rename(folder / "site-packages")
    sys.path.insert(0, str(folder / "site-packages"))
    with pytest.raises(InputError) as caught:
        build(folder / "elsewhere", "package:build")
    assert f"raised KeyError: 'fc' ({folder / 'site-packages' / 'package.py'}, line 2)" in str(caught.value)


def test_what_a_factory_switches_for_its_process_is_as_before_afterwards(folder: Path) -> None:
    model = build(folder, "factory_of_tests:switches")
    assert model.layer.weight.dtype is torch.float64
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_default_device() == torch.device("cpu")
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("function", ["inference", "switches"])
def test_a_network_made_in_inference_mode_takes_weights(folder: Path, function: str) -> None:
    model = build(folder, f"factory_of_tests:{function}")
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert all(not parameter.any() for parameter in model.parameters())


def test_a_network_without_values_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="'factory_of_tests:lazy' has lazy layers that have seen no input"):
        build(folder, "factory_of_tests:lazy")
    with pytest.raises(InputError, match="'factory_of_tests:meta' made weights on the device 'meta', which have no values"):
        build(folder, "factory_of_tests:meta")


MINE = "from torch import nn\ndef build():\n    return nn.Linear(1, {})\n"


@pytest.mark.parametrize("name", ["storage", "flows", "reports", "auditor", "queue"])
def test_a_module_may_be_called_as_one_that_is_loaded(folder: Path, name: str) -> None:
    before = sys.modules.get(name)
    modules(folder, **{name: MINE.format(7)})
    assert build(folder, f"{name}:build").out_features == 7
    if before is not None:
        assert sys.modules[name] is before


@pytest.mark.parametrize("has_init", [True, False])
def test_a_package_may_be_called_as_ours_with_relative_and_absolute_imports(folder: Path, has_init: bool) -> None:
    modules(folder, reports__layers=MINE.format(5), storage=MINE.format(6))
    modules(folder, reports__net="from .layers import build as first\nfrom reports.layers import build\nassert first is build\n")
    modules(
        folder, entry_of_tests="from reports.net import build as one\nimport storage\ndef build():\n    return storage.build()\n"
    )
    if has_init:
        modules(folder, reports____init__="")
    assert build(folder, "reports.net:build").out_features == 5
    assert build(folder, "entry_of_tests:build").out_features == 6
    import reports.formats
    import storage.errors

    assert storage.errors.InputError is InputError
    assert reports.formats.__name__ == "reports.formats"


def test_ours_is_found_where_the_user_has_another_package_of_its_name(folder: Path) -> None:
    modules(folder, flows____init__="", flows__nightly="", entry_of_tests=MINE.format(1))
    build(folder, "entry_of_tests:build")
    assert isinstance(build(folder, "flows.demo.allcnn:build"), nn.Sequential)


def test_two_folders_may_have_modules_of_one_name(folder: Path) -> None:
    """A worker of a cluster that stays serves one audit after another."""
    for number in (1, 2):
        (folder / f"audit{number}").mkdir()
        modules(
            folder / f"audit{number}", net_of_tests="from helper_of_tests import build\n", helper_of_tests=MINE.format(number)
        )
    outputs = [build(folder / f"audit{number}", "net_of_tests:build").out_features for number in (1, 2, 1)]
    assert outputs == [1, 2, 1]


WRAPPED = """
import torch
from torch import nn

def net(): return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
def whole(): return torch.compile(net())
def twice(): return torch.compile(nn.DataParallel(torch.compile(net())))
def part():
    made = net()
    made[0] = torch.compile(made[0])
    return nn.Sequential(nn.DataParallel(made))[0]
def in_place():
    made = net()
    made.compile()
    return made
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
        self.function = torch.compile(self.inner)
    def inner(self, x):
        return self.net(x)
    def forward(self, x):
        return self.function(x)
@torch.compile
def decorated(net, x):
    return net(x)
class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return decorated(self.net, x)
"""


@pytest.mark.parametrize("function", ["whole", "twice", "part", "in_place", "Functional", "Decorated"])
def test_of_a_compiled_or_spread_network_the_one_inside_is_taken(
    folder: Path, function: str, request: pytest.FixtureRequest
) -> None:
    modules(folder, wrapped_of_tests=WRAPPED)
    said: list[str] = []
    model = build(folder, f"wrapped_of_tests:{function}", said)
    request.addfinalizer(lambda: torch.compiler.set_stance("default"))
    kinds = {type(module).__name__ for module in model.modules()}
    assert kinds <= {"Sequential", "Linear", "ReLU", "Functional", "Decorated"}
    assert said == ["it is compiled, or spread over devices: the network inside is audited"]
    seen: list[str] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch():
        model(torch.zeros(1, 2))
    assert [name for name in seen if name in ("linear", "relu")] == ["linear", "relu", "linear"], "its operations are to be seen"
