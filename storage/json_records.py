"""JSON files that are read against a model: what is damaged, or somebody else's, is an error that names the file.

Records may get fields, with a default for what an older version wrote; none is dropped or renamed.
"""

import errno
import os
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.errors import InputError
from storage.filesystems import check_regular, is_remote

MOST_BYTES = 1 << 30
"""Of a record: a manifest of a hundred million large images has some 400 MB."""


def check_inside(path: str) -> str:
    """Raises ValueError where a path that a record names could lead out of the folder that it is relative to."""
    if any(part in ("", ".", "..") for part in path.split("/")) or re.search(r"[\\:\x00-\x1f\x7f]", path):
        raise ValueError(f"{path!r} leads out of its folder")
    return path


def check_name(name: str) -> str:
    """Raises ValueError where it is not the name of one file or folder."""
    if "/" in name:
        raise ValueError(f"{name!r} is not a name")
    return check_inside(name)


Name = Annotated[str, AfterValidator(check_name)]
Inside = Annotated[str, AfterValidator(check_inside)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Size = Annotated[int, Field(gt=0, le=1 << 40)]
Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A JSON file of a store: strict, so that a foreign or damaged one is not taken for ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


RecordT = TypeVar("RecordT", bound=Record)


def read_record(kind: type[RecordT], path: Path) -> RecordT:
    """Raises InputError where the file is not what it should be."""
    try:
        if not is_remote(path):
            check_regular(path)
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"'{path}' is no {kind.__name__.lower()}: it is larger than {MOST_BYTES >> 20} MB")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(f"'{path}' cannot be read ({reason})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where, message = ".".join(map(str, first["loc"])), " ".join(first["msg"].split())
        raise InputError(f"'{path}' is not a {kind.__name__.lower()} of this version: {where}: {message}") from error
