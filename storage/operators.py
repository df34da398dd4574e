"""Fixed operators on disk: worked out once for a model, mapped into memory by every worker that uses them.

operators/<key>.safetensors    key: SHA-256 of all that decides what is in it

The file's header says of what it is and the SHA-256 of its data. What is missing, damaged or of something else is built
again: nothing else is lost with a file.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.runs import flush, flush_folder

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1


class UnusableOperator(ValueError):
    """A file is not the operator that it should be, and is to be built again. The message says why."""


def describe(facts: Mapping[str, Any]) -> str:
    """All that decides what is in an operator, in one form of text."""
    return json.dumps({"format": FORMAT_VERSION, **facts}, sort_keys=True, ensure_ascii=False)


def operator_path(store: Path, facts: Mapping[str, Any]) -> Path:
    """Where the operator of a model, plan, input, method and version lies."""
    return store / "operators" / f"{hashlib.sha256(describe(facts).encode()).hexdigest()}.safetensors"


def write_operator(path: Path, facts: Mapping[str, Any], operator: "Tensor") -> None:
    """Writes beside and moves to its place: readers never meet half of it, and of two writers either may be last.

    Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    operator = operator.detach().contiguous().cpu()
    metadata = {"facts": describe(facts), "sha256": hash_tensor(operator)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}.safetensors")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        save_file({"operator": operator}, temporary, metadata)
        temporary.chmod(mode)  # safetensors leaves a file that only its writer may read.
        flush(temporary)
        temporary.replace(path)
    except SafetensorError as error:
        raise as_os_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def as_os_error(error: Exception, path: Path) -> OSError:
    """What the system said, which safetensors tells in words."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error))


def read_operator(path: Path, facts: Mapping[str, Any], with_hash: bool = False) -> "Tensor":
    """The operator, mapped: workers of one machine share its pages. with_hash: reads all of it to compare its hash.

    Raises UnusableOperator.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("facts") != describe(facts):
                raise UnusableOperator("it is of another model or method")
            operator: Tensor = file.get_tensor("operator")
    except (OSError, SafetensorError) as error:
        raise UnusableOperator(f"it cannot be read ({error})") from error
    if with_hash and metadata.get("sha256") != hash_tensor(operator):
        raise UnusableOperator("its data have changed since they were written")
    return operator


def hash_tensor(tensor: "Tensor") -> str:
    """SHA-256 of a contiguous tensor's bytes, on the CPU."""
    import torch

    return hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data).hexdigest()


@contextmanager
def rows_folder(path: Path) -> Iterator[Path]:
    """A folder beside an operator for the parts that it is made of; swept at the end, however that comes."""
    folder = path.with_name(f".{path.stem}-{secrets.token_hex(4)}")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        # A worker that still writes must not find it, nor leave a file that keeps it from being removed.
        swept = folder.rename(folder.with_name(f"{folder.name}-swept"))
        shutil.rmtree(swept, ignore_errors=True)


def write_rows(folder: Path, start: int, rows: "Tensor") -> None:
    """Rows from number `start` on, (n, P), as a part of the folder."""
    from safetensors.torch import save_file

    save_file({"rows": rows.detach().contiguous().cpu()}, folder / f"{start:010d}.safetensors")


def read_rows(folder: Path) -> "list[Tensor]":
    """All parts of the folder, in order, mapped."""
    from safetensors import safe_open

    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            parts.append(file.get_tensor("rows"))
    return parts
