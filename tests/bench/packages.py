"""What a machine without a package registry lacks, gathered into one file: python -m tests.bench.packages

For Python 3.12 on x86-64 Linux that has torch, numba, pyarrow, Pillow, scipy, safetensors, typer, fsspec, jinja2, pytest and
hypothesis. In the versions that are installed here, and whatever they import. Writes .gpu/packages.tar.xz, which git ignores
and `gpu.sh` unpacks.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / ".gpu" / "packages.tar.xz"
MOST_BYTES = 58 << 20
"""With the checkout, of some 5 MB, it is to be less than 64 MiB."""

ROOTS = (
    *("distributed", "dask", "zarr", "duckdb", "prefect", "pydantic", "requests", "rich", "sqlalchemy", "altair"),
    *("vl-convert-python", "psutil"),
)
ALONE = ("dask-cuda==26.10.0", "cuda-core==1.2.2", "nvidia-ml-py==13.615.71", "captum==0.9.0")
"""Not among what is installed here, or without what they ask for beyond it."""

THERE = {
    *("torch", "numba", "llvmlite", "pyarrow", "pillow", "scipy", "numpy", "safetensors", "typer", "fsspec", "jinja2", "pytest"),
    *("hypothesis", "markupsafe", "click", "pygments", "shellingham", "typing-extensions", "sympy", "networkx", "filelock"),
    *("mpmath", "setuptools", "packaging", "iniconfig", "pluggy", "sortedcontainers", "attrs"),
}
"""What the machine has, with what that asks for."""

TARGET = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64")
LEFT_OUT = re.compile(r"(^|/)(tests?|testing/tests|docs|examples)/|^prefect/server/ui|\.pyi$|\.(c|h|cpp|pyx|pxd)$")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        wheels, packages = Path(place) / "wheels", Path(place) / "packages"
        download([*closure(ROOTS), *ALONE], wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, packages)
        strip(packages)
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=6) as archive:
            for path in sorted(packages.iterdir()):
                archive.add(path, path.name)
        size = ARCHIVE.stat().st_size
        print(f"{ARCHIVE.relative_to(ROOT)}: {size / 2**20:.1f} MiB of {len(list(wheels.iterdir()))} packages")
        if size > MOST_BYTES:
            sys.exit(f"that is more than {MOST_BYTES >> 20} MiB: leave some of ROOTS out")


def closure(roots: Iterable[str]) -> Iterator[str]:
    """What these packages import, in the versions that are installed here, but for what the machine has."""
    waiting, seen = list(roots), set(THERE)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        yield f"{name}=={found.version}"
        asked = map(Requirement, found.requires or [])
        waiting += [one.name for one in asked if one.marker is None or one.marker.evaluate(TARGET)]


def download(wanted: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    command += ["--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS), "--dest", str(folder), *wanted]
    subprocess.run(command, check=True)


def unpack(wheel: Path, folder: Path) -> None:
    """As much of it as is imported."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if not entry.is_dir() and not LEFT_OUT.search(entry.filename):
                target = folder / re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", entry.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)


def strip(folder: Path) -> None:
    """Takes off what only debuggers need, a fifth of it all, where there is a program for that."""
    compiled = [str(path) for path in folder.rglob("*.so*") if path.is_file()]
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", *compiled], check=True)


if __name__ == "__main__":
    main()
