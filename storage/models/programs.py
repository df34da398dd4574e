"""Exported programs in: `.pt2` files as torch.export.save writes them, opened only where nothing in them can run as code.

To open one is not harmless by itself. Beside the weights, which are plain bytes, PyTorch unpickles without restriction what
asks for it (tensor subclasses, custom and opaque objects, sample inputs that hold more than tensors, all of an older
archive), loads compiled libraries, calls whatever function of torch an operation names, evaluates sizes and guards, which
are text, as Python, and writes names into source that it generates. So what a file holds is checked against what a network
needs, first and with PyTorch's own reader: what is not known to be harmless is refused.
"""

import ast
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from storage.errors import InputError
from storage.models.weights import check_unfolding, read_bytes, refuse_torchscript
from storage.options import STRICT

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Shape = tuple[int, int, int, int]

MODEL = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PAYLOADS = {
    "data/weights/model_weights_config.json": r"weight_\d+",
    "data/constants/model_constants_config.json": r"tensor_\d+",
}
RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt|extra/.*|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)

ARITHMETIC = {"add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem"}
FILE_OPERATIONS = {"from_file", "save"}
SYMBOLIC = {
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "Abs"),
    *("FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing", "Where", "Identity", "ToFloat", "IntTrueDiv", "FloatTrueDiv"),
    *("PowByNatural", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "And", "Or", "Not", "true", "false"),
    *("StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
}
"""What the text of a size may call."""

CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
OBJECTS = {"as_custom_obj", "custom_obj", "as_graph", "constant_input"}

REMEDY = "export the model again by torch.export.export and torch.export.save, on the CPU, with one tensor of images as its input"


@dataclass(frozen=True, config=STRICT)
class ProgramSpec:
    """program: a `.pt2` file as torch.export.save writes it; any fsspec address."""

    program: str
    addresses: ClassVar[tuple[str, ...]] = ("program",)

    @property
    def title(self) -> str:
        return f"model.program '{self.program}'"


def load_program(spec: ProgramSpec, folder: str | None, say: Callable[[str], None]) -> "ExportedProgram":
    """The program on the CPU. Raises InputError. folder, say: of no use to it, which brings no code, and fits or does not."""
    content = read_bytes(spec.program, "model.program")
    check_unfolding(content, spec.title, 0)
    refuse_torchscript(content, spec.title)
    return open_program(spec.program, content)


def hash_program(spec: ProgramSpec) -> str:
    """SHA-256 over the program's file. Raises InputError."""
    return hashlib.sha256(b"program" + read_bytes(spec.program, "model.program")).hexdigest()


def open_program(path: str, content: bytes) -> "ExportedProgram":
    """Opens a `.pt2` file. path: for messages. Raises InputError where it could do more than be a network, or is damaged."""
    if not path.endswith(".pt2"):
        raise InputError(f"model.program '{path}' does not end in '.pt2': name a file that torch.export.save wrote")
    try:
        # Not torch.export.load, which goes on with the format of old archives where this one fails.
        from torch.export.pt2_archive import PT2ArchiveReader
        from torch.export.pt2_archive._package import load_pt2
    except ImportError as error:
        raise InputError(f"model.program '{path}' needs PyTorch 2.9 or newer: install it") from error
    try:
        fault = next(faults(PT2ArchiveReader(io.BytesIO(content))), None)
        if fault is None:
            program = load_pt2(io.BytesIO(content)).exported_programs["model"]
    except Exception as error:  # what is damaged raises whatever its bytes happen to mean
        raise InputError(f"model.program '{path}' cannot be opened ({first_line(error)}): {REMEDY}") from error
    if fault is not None:
        raise InputError(f"model.program '{path}' is not opened, for it {fault}: {REMEDY}")
    return program


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def faults(archive: Any) -> Iterator[str]:
    """What in an archive is not known to be harmless: parts of a sentence about it."""
    names = archive.get_file_names()
    for name in names:
        if not RECORDS.fullmatch(name):
            yield f"holds '{name}', which no network needs"
    for config, pattern in PAYLOADS.items():
        yield from payload_faults(json.loads(archive.read_bytes(config)), pattern)
    if not holds_tensors(archive.read_bytes(SAMPLE_INPUTS)):
        yield "holds sample inputs that are more than tensors of the CPU"
    model = json.loads(archive.read_bytes(MODEL))
    yield from graph_faults(model, "")
    yield from growing_sizes(model["graph_module"]["graph"]["nodes"])
    inputs = [spec for spec in model["graph_module"]["signature"]["input_specs"] if "user_input" in spec]
    if len(inputs) != 1 or "as_tensor" not in inputs[0]["user_input"]["arg"]:
        yield f"takes {len(inputs)} inputs" if len(inputs) != 1 else "takes something else than a tensor"


def payload_faults(payloads: Any, pattern: str) -> Iterator[str]:
    """payloads: where each weight or constant lies in the archive, and how it is written there."""
    for name, payload in payloads["config"].items():
        if payload["use_pickle"] is not False or not re.fullmatch(pattern, payload["path_name"]):
            yield f"holds {name!r} as a pickled object"
    yield from graph_faults(payloads, "")


def holds_tensors(sample_inputs: bytes) -> bool:
    """Whether PyTorch's restricted unpickler opens them: where it does not, PyTorch goes on with the other one."""
    import torch

    if not sample_inputs:
        return True
    try:
        return isinstance(torch.load(io.BytesIO(sample_inputs), weights_only=True), tuple | dict)
    except Exception:  # a damaged pickle raises whatever its bytes happen to mean
        return False


def graph_faults(value: Any, key: str) -> Iterator[str]:
    """Goes through all of a JSON value. key: under which it stands in the innermost object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in OBJECTS:
                yield f"holds an object of kind '{name}'"
            elif name != "metadata":  # kept as text, never evaluated
                yield from graph_faults(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from graph_faults(inner, key)
    elif value is not None and key in HARMLESS and not HARMLESS[key](value):
        what = "calls {}, which is no operation of ATen" if HARMLESS[key] is is_operation else f"has {{}} for '{key}'"
        yield what.format(repr(str(value)[:80]))
    if key == "expr_str" and not isinstance(value, str):
        yield "has no text for 'expr_str'"


def growing_sizes(nodes: Any) -> Iterator[str]:
    """Arithmetic on sizes, step by step, that comes to numbers that no size has: each product may double their digits."""
    known: dict[Any, int] = {}
    for node in nodes:
        if not str(node["target"]).startswith(("_operator.", "torch.sym_")):
            continue
        found = [
            leaf.bit_length() if isinstance(leaf, int) else known.get(leaf, SIZE_DIGITS)
            for given in node["inputs"]
            for leaf in leaves(given["arg"])
        ]
        total = sum(found) if node["target"] == "_operator.mul" else max(found, default=0) + len(found)
        if total > MOST_DIGITS:
            yield f"works out sizes of more than {MOST_DIGITS} binary digits"
            return
        known |= dict.fromkeys(leaves(node["outputs"]), total)


def leaves(value: Any) -> Iterator[Any]:
    """What stands at the ends of a JSON value."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def is_operation(target: Any) -> bool:
    """Whether it names an operation of ATen that reaches no file, or arithmetic on sizes."""
    import torch

    parts = str(target).split(".")
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5 and parts[3] not in FILE_OPERATIONS:
        packet = getattr(torch.ops.aten, parts[3], None)
        return isinstance(getattr(packet, parts[4], None), torch._ops.OpOverload)
    if parts[0] == "torch" and len(parts) == 2:
        return parts[1].startswith("sym_")
    return len(parts) == 2 and parts[0] == "_operator" and parts[1] in ARITHMETIC


def is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*|", name, re.ASCII) is not None


def is_path(path: Any) -> bool:
    """Whether it is the name of a module or of a weight, as `features.0.weight`."""
    return isinstance(path, str) and re.fullmatch(r"[\w.@]*", path, re.ASCII) is not None


def is_size(text: Any) -> bool:
    """Whether it is arithmetic on numbers and sizes, as `1 + L['x'].size()[2] // 2` or `Add(Symbol('s0'), Integer(1))`.

    And short, and of results that a size can have: what a few characters name, a tower of powers say, may not end.
    """
    if not isinstance(text, str) or len(text) > LONGEST_SIZE:
        return False
    try:
        parsed = ast.parse(text, mode="eval")
        is_known = all(map(is_size_part, ast.walk(parsed)))
        return is_known and digits(parsed.body) <= MOST_DIGITS and terms(parsed.body) <= MOST_TERMS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


LONGEST_SIZE = 10_000
SIZE_DIGITS, MOST_DIGITS, MOST_TERMS = 64, 4096, 1000
"""Binary digits of a size that is given, and of what may be worked out on the way to another; terms of a size."""

SIZE_PARTS = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.unaryop, ast.boolop, ast.cmpop),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Load, ast.Subscript),
)
POWERS = {"Pow", "PowByNatural"}


def digits(node: ast.AST) -> int:
    """The most binary digits that a size, or anything on the way to it, can have.

    Raises ValueError where the exponent of a power is not written as a number.
    """
    if isinstance(node, ast.Constant):
        return max(node.value.bit_length(), 1) if isinstance(node.value, int) else SIZE_DIGITS
    if isinstance(node, ast.Name | ast.Subscript) or (isinstance(node, ast.Call) and is_symbol(node)):
        return SIZE_DIGITS
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return digits(node.left) * max(exponent(node.right), 1)
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    if isinstance(node, ast.Call) and called in POWERS and len(node.args) == 2:
        return digits(node.args[0]) * max(exponent(node.args[1]), 1)
    parts = [digits(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    is_product = called == "Mul" or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult))
    return sum(parts) if is_product else max(parts, default=0) + len(parts)


def terms(node: ast.AST) -> int:
    """How many terms a size has when it is multiplied out, as may be done with it."""
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return int(min(terms(node.left), MOST_TERMS + 1) ** min(exponent(node.right), MOST_DIGITS))
    if isinstance(node, ast.Call) and called in POWERS and len(node.args) == 2:
        return int(min(terms(node.args[0]), MOST_TERMS + 1) ** min(exponent(node.args[1]), MOST_DIGITS))
    children = node.args if isinstance(node, ast.Call) else list(ast.iter_child_nodes(node))
    parts = [terms(child) for child in children if isinstance(child, ast.expr)]
    if called == "Mul" or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return prod(parts)
    # Each of the largest or least may be compared with each other.
    return max(sum(parts) ** 2 if called in {"Max", "Min"} else sum(parts), 1)


def is_symbol(node: ast.Call) -> bool:
    return not isinstance(node.func, ast.Name) or node.func.id == "Symbol"


def exponent(node: ast.AST) -> int:
    """The size of an exponent that is written as a number, as 2, -1 or Integer(2). Raises ValueError where it is none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return exponent(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and len(node.args) == 1:
        return exponent(node.args[0])
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return abs(node.value)
    raise ValueError("a power whose exponent is no number")


def is_size_part(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        is_size_of = isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
        return is_size_of or (isinstance(node.func, ast.Name) and node.func.id in SYMBOLIC)
    if isinstance(node, ast.Attribute):
        return node.attr == "size" and isinstance(node.value, ast.Subscript)
    if isinstance(node, ast.keyword):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or is_name(node.value)
    if isinstance(node, ast.Name):
        return node.id in SYMBOLIC | {"L"} or re.fullmatch(r"[a-z]+\d+", node.id, re.ASCII) is not None
    return isinstance(node, SIZE_PARTS)


def is_tree(text: Any) -> bool:
    """Whether it describes tuples, lists and dicts by names: other containers bring code of their own."""
    trees = [json.loads(text)[1]]
    while trees:
        tree = trees.pop()
        # Another container's context is no text, or names what to import.
        if tree["type"] not in CONTAINERS or not isinstance(tree["context"], str | None):
            return False
        keys = json.loads(tree["context"] or "null")
        if keys is not None and not (isinstance(keys, list) and all(map(is_name, keys))):
            return False
        trees += tree["children_spec"]
    return True


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() <= SIZE_DIGITS


HARMLESS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("target", "as_operator"), is_operation),
    **dict.fromkeys(("name", "as_name", "forward_arg_names"), is_name),
    **dict.fromkeys(("fqn", "parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"), is_path),
    **dict.fromkeys(("expr_str", "guards_code"), is_size),
    **dict.fromkeys(("in_spec", "out_spec"), is_tree),
    **dict.fromkeys(("as_int", "as_ints", "min_val", "max_val"), is_integer),
}
"""What a value under a key must be, wherever the key stands."""


def place_program(program: "ExportedProgram", device: Any) -> "ExportedProgram":
    """The program with its weights, and what it makes itself, on a torch.device."""
    from torch.export.passes import move_to_device_pass

    return program if str(device) == "cpu" else move_to_device_pass(program, device)


def check_input(program: "ExportedProgram", title: str, shape: Shape) -> None:
    """Raises InputError where the program does not take every batch that the audit will give it.

    title: of the program, for messages. shape: (batch_samples, channels, height, width); batches have from one image up to
    `batch_samples`.
    """
    (name,) = program.graph_signature.user_inputs
    (placeholder,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
    dimensions = placeholder.meta["val"].shape
    if len(dimensions) != len(shape):
        raise InputError(f"{title} takes a tensor of {len(dimensions)} axes: images are (N, channels, H, W)")
    (least, most), *inner = [limits(program, dimension) for dimension in dimensions]
    is_fixed = least == most
    # PyTorch itself writes 2 where it means any number: of one image it assumes nothing.
    if most < shape[0] or least > (1 if is_fixed else 2):
        takes = f"exactly {least}" if is_fixed else f"{least} to {most:g}"
        raise InputError(
            f"{title} takes batches of {takes} images, and the audit gives it 1 to {shape[0]} "
            "(compute.batch_samples): export it with a dynamic batch dimension, "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    if any(not low <= wanted <= high for (low, high), wanted in zip(inner, shape[1:], strict=True)):
        takes = " × ".join(f"{low}" if low == high else f"{low}…{high:g}" for low, high in inner)
        raise InputError(
            f"{title} takes images of {takes}, and the config says {' × '.join(map(str, shape[1:]))}: "
            "correct input.channels, input.height and input.width"
        )


def limits(program: "ExportedProgram", dimension: Any) -> tuple[int, float]:
    """The least and the greatest size of a dimension of the program's input."""
    if isinstance(dimension, int):
        return dimension, dimension
    found = program.range_constraints.get(dimension.node.expr)
    if found is None:
        return 0, float("inf")
    return int(found.lower), float(found.upper)
