"""Where a store lies: a folder on a disk, or a prefix in S3. What differs between the two is in this file.

A path in S3 is a `upath.UPath`, which reads, lists and joins as a `Path` does, and is typed as one. S3 has no folders, no rename
and no half-written files; its conditional put creates an object that is not there yet, as a link does a file on a disk.
"""

import hashlib
import mimetypes
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from storage.errors import InputError

BLOCK = 1 << 20

CONNECTION = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "max_attempts": 5}}
"""A network that is away for some seconds is waited for; one that hangs, for some minutes."""

TAKEN = {"PreconditionFailed", "412"}
CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
"""What S3 answers where an object is there already, and where another request for it is under way."""
CONFLICT_TRIES, CONFLICT_SECS = 10, 0.1


def parse_store(text: str) -> Path:
    """The store that a person named: a folder, or `s3://bucket/prefix`. Raises InputError. Nothing is asked of the network."""
    found = re.match(r"(\w[\w.+-]+):/", text)  # of one letter, it is a drive of Windows
    if found is None:
        return Path(text)
    if re.search(r"[@?#]", text):
        raise InputError(
            f"the store's address, of '{found[1]}:', has '@', '?' or '#' in it: name s3://bucket/prefix, and give credentials in "
            "the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE …)"
        )
    if found[1].lower() != "s3":
        raise InputError(f"store '{text}' is of a kind that is not known: name a folder, or s3://bucket/prefix")
    parts = re.sub(r"^s3://?", "", text, flags=re.IGNORECASE).rstrip("/").split("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]+", parts[0]) or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"store '{text}' is no address in S3: name s3://bucket/prefix")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise InputError(f"store '{text}' needs the extra: pip install 'clear-audit[s3]'") from error
    return cast(Path, UPath("s3://" + "/".join(parts), use_listings_cache=False, config_kwargs=CONNECTION))


def is_remote(path: Path) -> bool:
    """Whether it is in S3."""
    return not isinstance(path, Path)


def remote(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a path in S3, and the path in it."""
    place = cast(Any, path)
    return place.fs, place.path


def error_code(error: BaseException) -> str:
    """What S3 called an error; empty where it did not say."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def is_lost(error: BaseException) -> bool:
    """Whether S3 could not be reached, or refused: nothing that a traceback would explain."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from fsspec.exceptions import FSTimeoutError
    except ImportError:
        return False
    lost = (BotoCoreError, ClientError, FSTimeoutError)
    return isinstance(error, lost) or (isinstance(error, OSError) and isinstance(error.__cause__, lost))


def check_reachable(store: Path) -> None:
    """Raises InputError where a store in S3 does not answer, has no bucket, or refuses us."""
    if not is_remote(store):
        return
    filesystem, path = remote(store)
    bucket, _, prefix = path.partition("/")
    try:
        filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except FileNotFoundError as error:
        raise InputError(f"store '{store}': there is no bucket '{bucket}': make it, or name another") from error
    except Exception as error:
        if not is_lost(error):
            raise
        raise InputError(
            f"store '{store}' cannot be reached ({say_lost(error)}): see the AWS_* variables, AWS_ENDPOINT_URL and AWS_PROFILE "
            "among them"
        ) from error


def check_writable(store: Path) -> None:
    """Raises InputError where a store in S3 is not reached, cannot be written, or does not heed conditional puts."""
    check_reachable(store)
    if not is_remote(store):
        return
    path = store / f".probe-{secrets.token_hex(4)}"
    try:
        create_file(path, "1")
        try:
            create_file(path, "2")
        except FileExistsError:
            return
        finally:
            with suppress(Exception):
                path.unlink()
    except Exception as error:
        if not is_lost(error):
            raise
        raise InputError(f"store '{store}' cannot be written ({say_lost(error)}): let us, or name another") from error
    raise InputError(f"store '{store}' does not heed 'If-None-Match', by which a shard is committed once: name another service's")


def say_lost(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


HALF = re.compile(r"\..+-[0-9a-f]{8}")
"""What a file is called that is being made: a process that is killed leaves it behind, and nobody reads it."""


def halves_in(folder: Path) -> list[Path]:
    """The files of a folder that were being made when somebody was killed."""
    return [path for path in folder.glob(".*") if HALF.fullmatch(path.name)]


def create_file(path: Path, text: str) -> None:
    """Creates a file whole or not at all. Raises FileExistsError where it exists already.

    In S3 a file with the very same text is taken for our own: an answer that was lost on its way is asked for again.
    """
    if is_remote(path):
        create_object(path, text.encode())
        return
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    flush_folder(path.parent)


def create_object(path: Path, content: bytes) -> None:
    filesystem, place = remote(path)
    for _ in range(CONFLICT_TRIES):
        try:
            filesystem.pipe_file(place, content, mode="create")
        except OSError as error:
            code = error_code(error)
            if code in TAKEN and read_object(path) != content:
                raise FileExistsError(str(path)) from error
            if code not in TAKEN | CONFLICT:
                raise
            if code in CONFLICT:
                time.sleep(CONFLICT_SECS)
                continue
        return
    raise FileExistsError(f"'{path}' is being written by others")


def read_object(path: Path) -> bytes | None:
    """A file in S3 as one request finds it, while others may replace or remove it; None where it is not there."""
    filesystem, place = remote(path)
    try:
        content: bytes = filesystem.cat_file(place)
    except FileNotFoundError:
        return None
    return content


def replace_file(path: Path, text: str) -> None:
    """Puts a file in its place whole, over what is there: readers never meet half of it."""
    if is_remote(path):
        filesystem, place = remote(path)
        kind = mimetypes.guess_type(path.name)[0] or "text/plain"
        filesystem.pipe_file(place, text.encode(), ContentType=f"{kind}; charset=utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


@contextmanager
def scratch(near: Path) -> Iterator[Path]:
    """A folder on this machine to make files in before they are put in their places; swept at the end.

    near: a folder of the store; on a disk the folder is in it, so that what is made can be renamed.
    """
    with tempfile.TemporaryDirectory(prefix="work-", dir=None if is_remote(near) else near) as folder:
        yield Path(folder)


def put_files(places: Mapping[Path, Path]) -> None:
    """Puts files of this machine, whole, where they belong. places: by where they are; all on one disk, or all in S3."""
    if not places:
        return
    if is_remote(next(iter(places.values()))):
        filesystem, _ = remote(next(iter(places.values())))
        filesystem.put(list(map(str, places)), [remote(target)[1] for target in places.values()])
        return
    for source, target in places.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def put_folder(folder: Path, target: Path) -> None:
    """Puts the files of a folder of this machine where they belong, each whole; the folder's own files last."""
    files = sorted(files_below(folder), key=lambda path: -len(path.parts))
    depths = sorted({len(path.parts) for path in files}, reverse=True)
    for depth in depths:
        put_files({path: target / path.relative_to(folder).as_posix() for path in files if len(path.parts) == depth})


def publish_files(places: Mapping[Path, Path]) -> None:
    """Has files of the store be where they belong; may be repeated after a crash. places: by where they were made.

    On a disk they are moved, in S3 copied by the server. Raises FileNotFoundError where a file is in neither place.
    """
    if not places:
        return
    if is_remote(next(iter(places))):
        filesystem, _ = remote(next(iter(places)))
        sources, targets = [remote(path)[1] for path in places], [remote(path)[1] for path in places.values()]
        filesystem.copy(sources, targets, on_error="raise")
        return
    for source, target in places.items():
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        elif not target.exists():
            raise FileNotFoundError(str(source))


def make_folder(path: Path) -> None:
    """Raises FileExistsError where a disk has it already."""
    if not is_remote(path):
        path.mkdir(parents=True)


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it. Raises FileNotFoundError where it is not there."""
    if is_remote(path):
        filesystem, place = remote(path)
        filesystem.rm(place, recursive=True)
    else:
        shutil.rmtree(path)


def remove_any(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link, and not what it leads to."""
    if not is_remote(path) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif is_remote(path) and path.is_dir():
        remove_tree(path)
    else:
        path.unlink()


def sweep_tree(path: Path) -> None:
    """Removes of a folder what can be removed; of a link to one, the link."""
    if not is_remote(path):
        if path.is_symlink():
            path.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(FileNotFoundError):
        remove_tree(path)


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; none where there is no such folder."""
    if is_remote(folder):
        filesystem, place = remote(folder)
        names = (name.removeprefix(place).lstrip("/") for name in filesystem.find(place))
        yield from (folder / name for name in sorted(names, key=lambda name: name.split("/")))
    else:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def check_regular(path: Path) -> None:
    """Raises InputError where what lies there is no file, but a pipe, say, which would be waited for without end.

    Raises OSError where nothing lies there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"'{path}' is not a file: put a file there")


def readable(path: Path) -> Path | BytesIO:
    """A file in a form that a library reads which knows nothing of S3."""
    return BytesIO(path.read_bytes()) if is_remote(path) else path


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Makes new names durable; Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
