"""What a small audit stores under every rule, as hashes: taken before and after a change that should change nothing.

`python -m tests.golden before.json`, then the change, then `python -m tests.golden after.json before.json`, on one machine:
another one rounds otherwise. Only the command line is used, and the store is read by zarr and pyarrow alone, so that this file
works on any version.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import zarr

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "flows" / "demo"
SAMPLES = 100
VARIANTS = {
    "linear": ["method.rule=linear"],
    "linear-unfolded": ["method.rule=linear", "compute.operator_gb=0"],
    "linear-bfloat16": ["method.rule=linear", "method.precision=bfloat16"],
    "linear-top-k": ["method.rule=linear", "method.top_k=3"],
    "linear-l2": ["method.rule=linear", "method.reduction=l2"],
    "deconv": ["method.rule=deconv"],
    "gradient": ["method.rule=gradient"],
    "gradient-max": ["method.rule=gradient", "method.reduction=max"],
    "guided": ["method.rule=guided"],
    "gradient_times_input": ["method.rule=gradient_times_input"],
    "lrp_epsilon": ["method.rule=lrp_epsilon"],
    "lrp_zplus": ["method.rule=lrp_zplus"],
    "cam": ["method.rule=cam"],
}
CHANGING = {"run_id", "started_at", "finished_at", "duration_secs", "config_hash", "dataset_path", "model_hash"}
"""Columns that differ between two audits of the same."""

CONFIG = f"""
name = "golden"
[dataset]
format = "folder"
path = "images"
[input]
channels = 1
height = 28
width = 28
[model]
factory = "flows.demo.allcnn:build"
weights = "{(DEMO / "allcnn.safetensors").as_posix()}"
[method]
rule = "gradient"
[data_checks]
samples = 16
[trust]
samples = 16
[compute]
shard_samples = 32
workers = 1
threads = 1
[[gates]]
name = "other_evidence"
max = 0.5
"""


def write_images(folder: Path) -> None:
    """The demo's first digits as PNG files, one folder a class."""
    import gzip

    import numpy as np
    from PIL import Image

    pixels = np.frombuffer(gzip.decompress((DEMO / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((DEMO / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    for number in range(SAMPLES):
        place = folder / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(-1, 28, 28)[number]).save(place / f"{number:03}.png")


def hashes_of(store: Path) -> dict[str, str]:
    """SHA-256 of each array and each column of each table in a store of one run."""
    found = {}
    for path in sorted(store.rglob("zarr.json")):
        node = zarr.open(path.parent, mode="r")
        if isinstance(node, zarr.Array):
            name = path.parent.relative_to(store).parts[-1]
            found[f"maps/{name}"] = hashlib.sha256(node[:].tobytes()).hexdigest()
    for path in sorted((store / "tables").rglob("*.parquet")):
        table, name = pq.ParquetFile(path).read(), path.relative_to(store / "tables").parts[0]
        for column in table.column_names:
            if column in CHANGING:
                continue
            values = json.dumps([str(table.schema.field(column).type), table[column].to_pylist()], default=str)
            found[f"{name}.{column}"] = hashlib.sha256(values.encode()).hexdigest()
    return found


def audit(config: Path, settings: list[str]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flows.cli", "run", str(config), "--store", folder]
        for setting in settings:
            command += ["--set", setting]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"}, check=False)
        assert done.returncode in (0, 1), settings
        return hashes_of(Path(folder))


def main(place: str, before: str | None = None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images")
        config = Path(folder) / "audit.toml"
        config.write_text(CONFIG)
        found = {name: audit(config, settings) for name, settings in VARIANTS.items()}
    Path(place).write_text(json.dumps(found, indent=1))
    if before is None:
        return 0
    expected = json.loads(Path(before).read_text())
    differing = [f"{name}: {key}" for name in expected for key in expected[name] if found[name].get(key) != expected[name][key]]
    added = [f"{name}: {key} is new" for name in expected for key in found[name] if key not in expected[name]]
    print("\n".join([*differing, *added]) or "all equal")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
