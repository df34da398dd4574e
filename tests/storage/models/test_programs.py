"""Exported programs: what is opened computes what the network did, and nothing that could run as code is opened."""

import contextlib
import copy
import io
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from storage.errors import InputError
from storage.models.factories import FactorySpec
from storage.models.programs import ProgramSpec, check_input, is_operation, is_size, open_program
from storage.models.sources import load_model, model_hash

BATCH = ({0: Dim("batch")},)
WHOLE = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)


class Network(nn.Module):
    """Sizes are computed with, weights shared, and a constant is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.again = self.features[0]
        self.last = nn.Linear(4, 3)
        self.scale = torch.tensor([1.0, 2.0, 4.0, 8.0])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images).flatten(2) * self.scale[:, None]
        return self.last(maps.sum(2) / maps.shape[2]).view(images.shape[0], -1)


def network() -> nn.Module:
    torch.manual_seed(3)
    return Network().eval()


def images(samples: int, size: int = 8) -> Tensor:
    return torch.randn(samples, 2, size, size, generator=torch.Generator().manual_seed(samples))


def export(shapes: Any = BATCH, strict: bool = False, model: nn.Module | None = None) -> bytes:
    program = torch.export.export(model or network(), (images(2),), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def archive() -> dict[str, bytes]:
    """The records of a harmless program, whose batch, height and width are free."""
    reader = PT2ArchiveReader(io.BytesIO(export(WHOLE)))
    return {name: reader.read_bytes(name) for name in reader.get_file_names() if not name.startswith((".data", "byteorder"))}


def pack(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with PT2ArchiveWriter(file) as writer:
        for name, content in records.items():
            writer.write_bytes(name, content)
    return file.getvalue()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("shapes", [None, BATCH, WHOLE], ids=["fixed", "batch", "whole"])
def test_a_program_computes_what_the_network_did(tmp_path: Path, shapes: Any, strict: bool) -> None:
    (tmp_path / "m.pt2").write_bytes(export(shapes, strict))
    program = load_model(ProgramSpec(str(tmp_path / "m.pt2")))
    for batch in [images(2)] if shapes is None else [images(1), images(5)]:
        torch.testing.assert_close(program.module()(batch), network()(batch), rtol=0, atol=0)


def test_a_harmless_archive_that_was_packed_again_is_opened(archive: dict[str, bytes]) -> None:
    """So that what is refused below is refused for what was put in."""
    program = open_program("m.pt2", pack(archive))
    batch = images(3, 12)
    torch.testing.assert_close(program.module()(batch), network()(batch))


def test_sizes_and_guards_of_a_program_with_free_height_and_width_are_arithmetic(archive: dict[str, bytes]) -> None:
    model = json.loads(archive["models/model.json"])
    assert len(model["guards_code"]) > 1
    assert '"expr_str": "Mul(' in archive["models/model.json"].decode()


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.marker,)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


Records = dict[str, bytes]


def changed(records: Records, name: str, change: Callable[[Any], None]) -> Records:
    content = json.loads(records[name])
    change(content)
    return records | {name: json.dumps(content).encode()}


def in_model(records: Records, change: Callable[[Any], None]) -> Records:
    return changed(records, "models/model.json", change)


def at_first(value: Any, key: str, new: Any) -> bool:
    """Puts `new` at the first place of a key, however deep; whether there was one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and key in value:
        value[key] = new
        return True
    return any(at_first(item, key, new) for item in inner)


def sample_inputs(records: Records, marker: Path) -> Records:
    return records | {"data/sample_inputs/model.pt": saved(((Bomb(marker),), {}))}


def pickled_weight(records: Records, marker: Path) -> Records:
    def change(config: Any) -> None:
        config["config"]["last.bias"] |= {"use_pickle": True, "path_name": "weight_99"}

    weights = changed(records, "data/weights/model_weights_config.json", change)
    return weights | {"data/weights/weight_99": saved(Bomb(marker))}


def pickled_constant(records: Records, marker: Path) -> Records:
    def change(config: Any) -> None:
        config["config"]["scale"] |= {"use_pickle": True, "path_name": "tensor_99"}

    constants = changed(records, "data/constants/model_constants_config.json", change)
    return constants | {"data/constants/tensor_99": saved(Bomb(marker))}


def opaque_constant(records: Records, marker: Path) -> Records:
    def change(config: Any) -> None:
        config["config"]["scale"] |= {"use_pickle": True, "path_name": "opaque_obj_0"}

    constants = changed(records, "data/constants/model_constants_config.json", change)
    return constants | {"data/constants/opaque_obj_0": pickle.dumps(Bomb(marker))}


def old_weights(records: Records, marker: Path) -> Records:
    return records | {"data/weights/model.pt": saved(Bomb(marker))}


def second_model(records: Records, marker: Path) -> Records:
    other = {re.sub(r"/model(?=[_.])", "/other", name): content for name, content in records.items() if "/model" in name}
    return records | other | {"data/sample_inputs/other.pt": saved(((Bomb(marker),), {}))}


def mkdir_of(marker: Path) -> str:
    return f"__import__('os').mkdir('{marker.as_posix()}')"


def evaluated_size(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "expr_str", mkdir_of(marker)))


def evaluated_size_in_a_list(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "expr_str", [mkdir_of(marker)]))


def guard(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: model["guards_code"].append(mkdir_of(marker) + " is None"))


def function_of_torch(records: Records, marker: Path) -> Records:
    def change(model: Any) -> None:
        graph = model["graph_module"]["graph"]
        node = copy.deepcopy(graph["nodes"][-1])
        argument = {"name": "", "arg": {"as_string": marker.as_posix()}, "kind": 1}
        node |= {"target": "torch.serialization.os.mkdir", "inputs": [argument], "outputs": [{"as_none": True}], "name": "call"}
        graph["nodes"].append(node)

    return in_model(records, change)


def imported_container(records: Records, marker: Path) -> Records:
    """The module that is imported for a defaultdict, found in the working folder."""
    (marker.parent / "module_of_a_program.py").write_text(f"import os\nos.mkdir({marker.as_posix()!r})\n")
    context: dict[str, Any] = {"default_factory_module": "module_of_a_program", "default_factory_name": "x", "dict_context": []}
    leaf = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}

    def change(model: Any) -> None:
        call = model["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = json.dumps([1, tree | {"children_spec": [leaf]}])

    return in_model(records, change)


EXECUTED = [
    sample_inputs,
    pickled_weight,
    pickled_constant,
    opaque_constant,
    old_weights,
    second_model,
    evaluated_size,
    guard,
    imported_container,
]


def compiled_library(records: Records, marker: Path) -> Records:
    return records | {"data/aotinductor/model/model.so": b"\x7fELF"}


def file_operation(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "target", "torch.ops.aten.from_file.default"))


def attribute_of_an_operation(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "target", "torch.ops.aten.__getattribute__.__call__"))


def operation_of_others(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "target", "torch.ops.higher_order.call_torchbind"))


def name_that_is_source(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "name", f"x={mkdir_of(marker)}"))


def weight_that_is_source(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "parameter_name", f'x"), {mkdir_of(marker)}) #'))


def argument_that_is_source(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "forward_arg_names", [f"x={mkdir_of(marker)}"]))


def size_that_is_text(records: Records, marker: Path) -> Records:
    return in_model(records, lambda model: at_first(model, "as_int", mkdir_of(marker)))


def second_input(records: Records, marker: Path) -> Records:
    def change(model: Any) -> None:
        specs = model["graph_module"]["signature"]["input_specs"]
        specs.append(copy.deepcopy(specs[-1]))

    return in_model(records, change)


def input_that_is_text(records: Records, marker: Path) -> Records:
    def change(model: Any) -> None:
        model["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"] = {"as_string": f"' + {mkdir_of(marker)} + '"}

    return in_model(records, change)


def custom_object(records: Records, marker: Path) -> Records:
    def change(model: Any) -> None:
        model["graph_module"]["graph"]["inputs"].append({"as_custom_obj": {"name": "x", "class_fqn": "y"}})

    return in_model(records, change)


REFUSED = [
    evaluated_size_in_a_list,
    function_of_torch,
    compiled_library,
    file_operation,
    attribute_of_an_operation,
    operation_of_others,
    name_that_is_source,
    weight_that_is_source,
    argument_that_is_source,
    size_that_is_text,
    second_input,
    input_that_is_text,
    custom_object,
]
"""What PyTorch may stop itself, later or in another version."""


@pytest.mark.parametrize("hostile", EXECUTED, ids=lambda made: made.__name__)
@pytest.mark.filterwarnings("ignore")
def test_code_in_a_program_is_refused_and_not_executed(
    archive: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hostile: Callable[[Records, Path], Records],
) -> None:
    marker = tmp_path / "executed"
    monkeypatch.syspath_prepend(tmp_path)
    content = pack(hostile(archive, marker))
    with pytest.raises(InputError, match=r"model\.program 'm\.pt2' is not opened, for it .*: export the model again"):
        open_program("m.pt2", content)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # what it makes of the bomb is not what it expected
        torch.export.load(io.BytesIO(content)).module()(images(2))
    assert marker.exists(), "the bomb is one"


@pytest.mark.parametrize("hostile", REFUSED, ids=lambda made: made.__name__)
def test_what_a_network_does_not_need_is_refused(
    archive: dict[str, bytes], tmp_path: Path, hostile: Callable[[Records, Path], Records]
) -> None:
    content = pack(hostile(archive, tmp_path / "executed"))
    with pytest.raises(InputError, match=r"model\.program 'm\.pt2' is not opened, for it "):
        open_program("m.pt2", content)
    assert not (tmp_path / "executed").exists()


SIZES = [
    "s0 ** 2",
    "Pow(Symbol('s0'), Integer(-1))",
    "Add(" + ", ".join(f"Symbol('s{number}')" for number in range(200)) + ")",
    "1 + (((-1) + L['x'].size()[3]) // 2) >= 1 and 3 != 4",
    "Max(Integer(1), Add(FloorDiv(Symbol('s0', positive=True, integer=True), Integer(2)), Integer(-1)))",
    "s77 % 2",
    "not Eq(s0, 3)",
]
NO_SIZES = [
    "__import__('os')",
    "().__class__",
    "L['x'].shape",
    "L.size()",
    "L['x'].size()(1)",
    "L['x'].size(key=1).to()",
    "Symbol('s0').size()",
    "Symbol('a b')",
    "Symbol('s0', positive=open('x'))",
    "[x for x in s0]",
    "lambda: 1",
    "f'{s0}'",
    "(s0 := 3)",
    "open",
    "eval('1')",
    "s0;s1",
    "s0\ns1",
    "",
    "1 if s0 else 2",
    "*s0",
    "(" * 500,
    "\x00",
    3,
    None,
    # What does not end, or fills the memory.
    "2 ** 99999999999",
    "2 ** 2 ** 2 ** 2 ** 2 ** 2",
    "(((s0 ** 9) ** 9) ** 9) ** 9",
    "s0 ** s1",
    "2 ** -99999999999",
    "1 << 99999999999",
    "s0 << 2",
    "s0 >> 2",
    "s0 | 1",
    "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
    "Pow(Pow(Pow(Integer(9), Integer(999)), Integer(999)), Integer(999))",
    "PowByNatural(Symbol('s0'), Symbol('s1'))",
    "Mul(" + ", ".join(["Symbol('s0')"] * 65) + ")",
    "9" * 4000,
    "s0 + " * 5000 + "s0",
    " * ".join(f"(s{number} + 1)" for number in range(55)),
    "Pow(Add(Symbol('s0'), Symbol('s1')), Integer(40))",
    "Max(" + ", ".join(f"Symbol('s{number}')" for number in range(60)) + ")",
    "-" * 9999 + "1",
]


class Growing(nn.Module):
    """Sizes of which each is the square of the one before."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.layer, self.steps = nn.Conv2d(2, 4, 1), steps

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[2]
        for _ in range(self.steps):
            size = size * size + 1
        return self.layer(images).mean((2, 3)) * (size / size)


def test_sizes_that_grow_from_step_to_step_are_refused() -> None:
    few = open_program("m.pt2", export(WHOLE, model=Growing(3)))
    assert few.module()(images(2)).shape == (2, 4)
    archive = PT2ArchiveReader(io.BytesIO(export(WHOLE, model=Growing(1))))
    records = {name: archive.read_bytes(name) for name in archive.get_file_names() if not name.startswith((".data", "byteorder"))}
    model = json.loads(records["models/model.json"])
    nodes = model["graph_module"]["graph"]["nodes"]
    place = next(place for place, node in enumerate(nodes) if node["target"] == "_operator.mul")
    last = nodes[place]
    for step in range(40):
        node = copy.deepcopy(last)
        name = f"more_{step}"
        before = last["outputs"][0]["as_sym_int"]["as_name"]
        for given in node["inputs"]:
            given["arg"] = {"as_sym_int": {"as_name": before}}
        node["outputs"] = [{"as_sym_int": {"as_name": name}}]
        node["name"] = name
        nodes.insert(place + 1 + step, node)
        last = node
    records["models/model.json"] = json.dumps(model).encode()
    with pytest.raises(InputError, match="works out sizes of more than 4096 binary digits"):
        open_program("m.pt2", pack(records))
    # A sum between two products starts nothing anew.
    for node in nodes[place + 5 : place + 40 : 5]:
        (before,) = node["inputs"][:1]
        node["target"], node["inputs"] = "torch.sym_sum", [before | {"arg": {"as_sym_ints": [before["arg"]["as_sym_int"]]}}]
    records["models/model.json"] = json.dumps(model).encode()
    with pytest.raises(InputError, match="works out sizes of more than 4096 binary digits"):
        open_program("m.pt2", pack(records))


@pytest.mark.parametrize("text", SIZES)
def test_arithmetic_on_sizes_is_known(text: str) -> None:
    assert is_size(text)


@pytest.mark.parametrize("text", NO_SIZES)
def test_nothing_else_is_taken_for_a_size(text: Any) -> None:
    assert not is_size(text)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("torch.ops.aten.__and__.Tensor", True),
        ("torch.sym_max", True),
        ("_operator.floordiv", True),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.aten.conv2d", False),
        ("torch.ops.aten.conv2d.default.__call__", False),
        ("torch.ops.aten.conv2d.__init__", False),
        ("torch.ops.load_library", False),
        ("torch.load", False),
        ("torch.sym_max.__globals__", False),
        ("_operator.attrgetter", False),
        ("math.floor.x", False),
        ("os.system", False),
        ("#triton:x", False),
        ("", False),
        (None, False),
    ],
)
def test_an_operation_is_one_of_aten_or_arithmetic(target: Any, expected: bool) -> None:
    assert is_operation(target) == expected


@pytest.mark.parametrize("cut", [0, 10, 0.3, 0.7, 0.99])
def test_a_damaged_program_is_an_input_error(cut: float) -> None:
    whole = export()
    part = whole[: int(cut * len(whole)) if cut < 1 else int(cut)]
    with pytest.raises(InputError, match=r"model\.program 'm\.pt2' cannot be opened \(.+\): export the model again"):
        open_program("m.pt2", part)


def test_bytes_that_were_changed_give_a_program_or_an_input_error() -> None:
    whole, generator = export(), random.Random(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[generator.randrange(len(whole))] = generator.randrange(256)
        try:
            open_program("m.pt2", bytes(damaged))
        except InputError:
            refused += 1
    assert refused > 10


def test_a_program_in_the_older_format_is_refused(tmp_path: Path) -> None:
    """PyTorch opens it by an unpickler without restrictions where the other one fails."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as old:
        old.writestr("version", "8.8")
        for name in ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt"):
            old.writestr(name, saved(Bomb(tmp_path / "executed")))
        old.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(InputError, match="cannot be opened"):
        open_program("m.pt2", file.getvalue())
    assert not (tmp_path / "executed").exists()


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.program 'm\.pt' does not end in '\.pt2'"):
        open_program("m.pt", export())
    with pytest.raises(InputError, match=r"model\.program '.*none\.pt2' cannot be read"):
        load_model(ProgramSpec(str(tmp_path / "none.pt2")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["m.pt", "m.pt2"])
def test_torchscript_is_to_be_exported_again(tmp_path: Path, name: str) -> None:
    torch.jit.trace(network(), images(2)).save(str(tmp_path / name))
    message = r"m\.pt2?' is TorchScript, .*torch\.export\.export.*model\.program"
    with pytest.raises(InputError, match=message):
        load_model(ProgramSpec(str(tmp_path / name)))
    if name == "m.pt":
        with pytest.raises(InputError, match=message):
            load_model(FactorySpec("torch.nn:Identity", str(tmp_path / name)))


@pytest.mark.parametrize(
    ("shapes", "shape", "message"),
    [
        (BATCH, (64, 2, 8, 8), None),
        (WHOLE, (64, 2, 11, 20), None),
        (({0: Dim("batch", max=16)},), (16, 2, 8, 8), None),
        (None, (2, 2, 8, 8), "takes batches of exactly 2 images, and the audit gives it 1 to 2"),
        (None, (64, 2, 8, 8), "takes batches of exactly 2 images, and the audit gives it 1 to 64"),
        (({0: Dim("batch", max=16)},), (17, 2, 8, 8), "takes batches of 0 to 16 images, and the audit gives it 1 to 17"),
        (({0: Dim("batch", min=3)},), (17, 2, 8, 8), "dynamic batch dimension, dynamic_shapes"),
        (BATCH, (64, 3, 8, 8), "takes images of 2 × 8 × 8, and the config says 3 × 8 × 8: correct input.channels"),
        (BATCH, (64, 2, 9, 8), "takes images of 2 × 8 × 8, and the config says 2 × 9 × 8"),
        (WHOLE, (64, 2, 1, 8), "takes images of 2 × 2…inf × 2…inf, and the config says 2 × 1 × 8"),
    ],
)
def test_a_batch_that_the_program_does_not_take_is_an_input_error(
    shapes: Any, shape: tuple[int, int, int, int], message: str | None
) -> None:
    example = images(3 if message and "dynamic" in message else 2)
    file = io.BytesIO()
    torch.export.save(torch.export.export(network(), (example,), dynamic_shapes=shapes), file)
    program = open_program("m.pt2", file.getvalue())
    if message is None:
        check_input(program, "m", shape)
    else:
        with pytest.raises(InputError, match=re.escape(message)):
            check_input(program, "m", shape)


def test_a_program_of_single_images_fits_batches_of_one() -> None:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network(), (images(1),)), file)
    program = open_program("m.pt2", file.getvalue())
    check_input(program, "m", (1, 2, 8, 8))
    with pytest.raises(InputError, match="exactly 1 images, and the audit gives it 1 to 2"):
        check_input(program, "m", (2, 2, 8, 8))


def test_a_program_of_images_without_channels_is_named() -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Flat(), (torch.zeros(2, 8, 8),)), file)
    with pytest.raises(InputError, match=r"takes a tensor of 3 axes: images are \(N, channels, H, W\)"):
        check_input(open_program("m.pt2", file.getvalue()), "m", (1, 1, 8, 8))


def test_the_hash_of_a_program_is_of_its_bytes_and_not_of_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"one")
    (tmp_path / "b.pt2").write_bytes(b"one")
    (tmp_path / "c.pt2").write_bytes(b"two")
    a, b, c = (model_hash(ProgramSpec(str(tmp_path / name))) for name in ("a.pt2", "b.pt2", "c.pt2"))
    assert a == b != c
    with pytest.raises(InputError, match="cannot be read"):
        model_hash(ProgramSpec(str(tmp_path / "none.pt2")))
