"""Bytes to a reader, changed by what of the code they reach: python -m tests.fuzz.guided READER FOLDER [options of libFuzzer].

Where the other tests here write inputs of a known form, atheris grows its own from harmless ones, and keeps those that reach new
branches. What the reader takes amiss ends the program with a traceback, and the input in a file `crash-…`.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["storage", "flows.config"]):
    from flows.config import load_config
    from storage.datasets.idx import IdxDataset, IdxSpec
    from storage.datasets.manifest import ManifestDataset, ManifestSpec
    from storage.errors import InputError
    from storage.runs.run import Run
    from storage.sql.read_only import connect, select

from tests.fuzz.conftest import check_sentence, hearing
from tests.fuzz.test_fuzz_config import CONFIG, written
from tests.fuzz.test_fuzz_idx import IMAGES
from tests.fuzz.test_fuzz_runs import COMMIT, MANIFEST, PLAN, RUN, read_all
from tests.fuzz.test_fuzz_sql import WHOLE, write_samples

Reader = Callable[[bytes], None]


def of_files(folder: Path, name: str, take: Callable[[str], None]) -> Reader:
    file = folder / name

    def read(content: bytes) -> None:
        file.write_bytes(content)
        take(str(file))

    return read


def take_config(path: str) -> None:
    load_config(Path(path), [], {})


def take_idx_file(path: str) -> None:
    dataset = IdxDataset(IdxSpec("idx", path, None, None))
    dataset.read(0, min(5, len(dataset)))


def take_manifest(path: str) -> None:
    dataset = ManifestDataset(ManifestSpec("manifest", path, None))
    assert all(image is None for image in dataset.read(0, min(8, len(dataset))).images), "there is no image to read"


def of_queries(folder: Path) -> Reader:
    write_samples(folder / "store", "a", "plain")
    connection = connect(folder / "store", ["a"], threads=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def read(content: bytes) -> None:
        try:
            select(connection, content.decode("utf-8", "replace"))
        finally:
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, "a query wrote"

    return read


def of_records(folder: Path, hostile: str) -> Reader:
    run = Run(folder / "store", RUN)
    run.commits.mkdir(parents=True)
    files = {"plan": run.folder / "plan.json", "commit": run.commits / "00000.json", "run-manifest": run.manifest}
    for name, file in files.items():
        file.write_bytes(written_json(RECORDS[name]))

    def read(content: bytes) -> None:
        files[hostile].write_bytes(content)
        read_all(run)

    return read


def written_json(record: object) -> bytes:
    return json.dumps(record).encode()


RECORDS = {"plan": PLAN, "commit": COMMIT, "run-manifest": MANIFEST}
HARMLESS = {
    "config": [written(CONFIG)],
    "idx": [IMAGES],
    "manifest": [b'path,label,site\na.png,cat,1\n"b/c.png",dog,\n'],
    "query": [text.encode() for text in WHOLE],
} | {name: [written_json(record)] for name, record in RECORDS.items()}
READERS: dict[str, Callable[[Path], Reader]] = {
    "config": partial(of_files, name="audit.toml", take=take_config),
    "idx": partial(of_files, name="images", take=take_idx_file),
    "manifest": partial(of_files, name="list.csv", take=take_manifest),
    "query": of_queries,
} | {name: partial(of_records, hostile=name) for name in RECORDS}


def main() -> None:
    name, place, *options = sys.argv[1:]
    folder, harmless = Path(place) / "folder", Path(place) / "harmless"
    for made in (folder, harmless):
        made.mkdir()
    for number, content in enumerate(HARMLESS[name]):
        (harmless / str(number)).write_bytes(content)
    read = READERS[name](folder)

    def once(content: bytes) -> None:
        with hearing(folder):
            try:
                read(content)
            except InputError as error:
                check_sentence(error)

    atheris.Setup([sys.argv[0], *options, str(harmless)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
