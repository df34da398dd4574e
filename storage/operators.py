"""Fixed operators on disk: worked out once for a model, mapped into memory by every worker that uses them.

operators/<key>.safetensors    key: SHA-256 of all that decides what is in it
operators/<key>.refused        why one that was built is not used

The file's header says of what it is and the SHA-256 of its data. What is missing, damaged or of something else is built
again: nothing else is lost with a file.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from storage.errors import InputError
from storage.filesystems import (
    check_regular,
    flush,
    flush_folder,
    is_remote,
    make_folder,
    put_files,
    replace_file,
    scratch,
    sweep_tree,
)
from storage.json_records import Record, read_record
from storage.local_cache import local_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3

USED = ".used"
"""The suffix of the empty file in S3 whose time says when an operator was last used: there, nothing else can be touched."""

REFUSED = ".refused"
"""The suffix of the file that keeps later runs from building an operator for nothing."""


class UnusableOperator(ValueError):
    """A file is not the operator that it should be, and is to be built again. The message says why."""


class Refusal(Record):
    """Why an operator that was built is not used. memory: bytes that it was allowed."""

    reason: str
    memory: Annotated[float, Field(ge=0)]


def describe(facts: Mapping[str, Any]) -> str:
    """All that decides what is in an operator, in one form of text."""
    return json.dumps({"format": FORMAT_VERSION, **facts}, sort_keys=True, ensure_ascii=False)


def operator_path(store: Path, facts: Mapping[str, Any]) -> Path:
    """Where the operator of a model, plan, input, method and version lies."""
    return store / "operators" / f"{hashlib.sha256(describe(facts).encode()).hexdigest()}.safetensors"


def write_operator(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, "Tensor"]) -> None:
    """Writes beside and moves to its place: readers never meet half of it, and of two writers either may be last.

    tensors: all that the operator is, by name. Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    operator = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"facts": describe(facts), "sha256": hash_tensors(operator)}
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path.parent) as folder:
        temporary = folder / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(operator, temporary, metadata)
        except SafetensorError as error:
            raise as_os_error(error, path) from error
        temporary.chmod(mode)  # safetensors leaves a file that only its writer may read.
        flush(temporary)
        put_files({temporary: path})
    if not is_remote(path):
        flush_folder(path.parent)


def mark_used(path: Path) -> None:
    """Keeps when an operator was last used, which says whether a run that is left may still use it."""
    if is_remote(path):
        replace_file(path.with_suffix(USED), "")
    else:
        path.touch()


def last_used(path: Path) -> float:
    """When an operator was last used, seconds since 1970."""
    mark = path.with_suffix(USED)
    return (mark if is_remote(path) and mark.exists() else path).stat().st_mtime


def write_refusal(path: Path, reason: str, memory: float) -> None:
    """Keeps why an operator that was built is not used. memory: bytes that it was allowed."""
    replace_file(path.with_suffix(REFUSED), Refusal(reason=reason, memory=memory).model_dump_json())


def read_refusal(path: Path, memory: float) -> str | None:
    """Why an operator was not used when it was last built; None where it is to be tried, for it is allowed more now say."""
    refusal = path.with_suffix(REFUSED)
    try:
        found = read_record(Refusal, refusal)
    except InputError:
        return None
    if memory > found.memory:
        return None
    way_out = f"remove operators/{refusal.name} from the store to have it tried again"
    return f"{found.reason}; so it was when it was last built: {way_out}"


def remove_operator(path: Path) -> None:
    path.unlink()
    if is_remote(path):
        path.with_suffix(USED).unlink(missing_ok=True)


def as_os_error(error: Exception, path: Path) -> OSError:
    """What the system said, which safetensors tells in words."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error))


def read_operator(path: Path, facts: Mapping[str, Any], with_hash: bool = False) -> "dict[str, Tensor]":
    """The operator's tensors by name, mapped: workers of one machine share its pages.

    with_hash: reads all of it to compare its hash. Raises UnusableOperator.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not is_remote(path):
            check_regular(path)
        with safe_open(local_file(path.parent.parent, path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("facts") != describe(facts):
                raise UnusableOperator("it is of another model or method")
            operator = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, InputError, SafetensorError) as error:
        raise UnusableOperator(f"it cannot be read ({error})") from error
    if "operator" not in operator:
        raise UnusableOperator("it has no tensor 'operator'")
    if with_hash and metadata.get("sha256") != hash_tensors(operator):
        raise UnusableOperator("its data have changed since they were written")
    return operator


def hash_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 of contiguous tensors' bytes in the order of their names, on the CPU."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def rows_folder(path: Path) -> Iterator[Path]:
    """A folder beside an operator for the parts that it is made of; swept at the end, however that comes."""
    folder = path.with_name(f".{path.stem}-{secrets.token_hex(4)}")
    make_folder(folder)
    try:
        yield folder
    finally:
        # A worker that still writes must not find it, nor leave a file that keeps it from being removed.
        swept = folder if is_remote(folder) else folder.rename(folder.with_name(f"{folder.name}-swept"))
        sweep_tree(swept)


def write_rows(folder: Path, start: int, rows: "Tensor") -> None:
    """Rows from number `start` on, (n, P), as a part of the folder."""
    from safetensors.torch import save_file

    name = f"{start:010d}.safetensors"
    with scratch(folder) if is_remote(folder) else nullcontext(folder) as place:
        save_file({"rows": rows.detach().contiguous().cpu()}, place / name)
        if place != folder:
            put_files({place / name: folder / name})


def read_rows(folder: Path) -> "list[Tensor]":
    """All parts of the folder, in order; on a disk mapped."""
    from safetensors import safe_open
    from safetensors.torch import load

    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        if is_remote(path):
            parts.append(load(path.read_bytes())["rows"])
        else:
            with safe_open(path, framework="pt") as file:
                parts.append(file.get_tensor("rows"))
    return parts
