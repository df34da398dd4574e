"""CLEAR maps in Zarr: one array a quantity, one Zarr shard for each shard of the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.filesystems import check_regular, is_remote, remote

# Imported where it is used: who asks which tables there are has no need of it.
if TYPE_CHECKING:
    import zarr

CHUNK_SAMPLES = 16
"""Images in a chunk: 10× faster to write than one image a chunk, and still cheap to read one."""

SHARD_BYTES = 32_000_000
SHARD_SAMPLES = 512


@dataclass(frozen=True)
class MapShape:
    """samples of height × width pixels, `shard` of them in a shard."""

    samples: int
    height: int
    width: int
    shard: int


def shard_samples(height: int, width: int) -> int:
    """How many samples a shard has where the config does not say: up to 512, and 32 MB of maps."""
    bytes_a_sample = 4 * height * width
    samples = min(SHARD_SAMPLES, SHARD_BYTES // bytes_a_sample)
    return max(CHUNK_SAMPLES, samples // CHUNK_SAMPLES * CHUNK_SAMPLES)


def create_maps(path: Path, shape: MapShape, attributes: dict[str, Any]) -> "dict[str, zarr.Array[Any]]":
    """Creates the arrays, without data, of a run or of one shard; returns them by name.

    dominant_class: (samples, height, width) int16, −1 where no class dominates. dominant_response: the same shape,
    float16 in [0, 1], divided by the sample's peak. response_peak: (samples,) float32. Write to what is returned: an array
    that is opened again has forgotten to write empty chunks.
    """
    import zarr
    from zarr.codecs import BloscCodec

    group = zarr.create_group(path, attributes=attributes)
    common: dict[str, Any] = {"config": {"write_empty_chunks": True}}
    pixels = common | {
        "shape": (shape.samples, shape.height, shape.width),
        "chunks": (CHUNK_SAMPLES, shape.height, shape.width),
        "shards": (shape.shard, shape.height, shape.width),
    }
    lz4 = BloscCodec(cname="lz4")
    zstd = BloscCodec(cname="zstd", clevel=1)
    peaks = common | {"shape": (shape.samples,), "chunks": (shape.shard,)}
    return {
        "dominant_class": group.create_array("dominant_class", dtype="int16", fill_value=-1, compressors=lz4, **pixels),
        "dominant_response": group.create_array("dominant_response", dtype="float16", fill_value=0, compressors=zstd, **pixels),
        "response_peak": group.create_array("response_peak", dtype="float32", fill_value=0, **peaks),
    }


def write_shard(path: Path, shape: MapShape, dominant_class: np.ndarray, dominant_response: np.ndarray) -> None:
    """Writes the maps of one shard as arrays of their own, whose one Zarr shard later becomes the run's.

    dominant_class: (n, height, width) int16. dominant_response: the same shape, float32 ≥ 0.
    """
    peak = dominant_response.max(axis=(1, 2), initial=0)
    scale = np.where(peak > 0, peak, 1)[:, None, None]
    arrays = create_maps(path, MapShape(len(dominant_class), shape.height, shape.width, shape.shard), {})
    for name, values in {
        "dominant_class": dominant_class,
        "dominant_response": (dominant_response / scale).astype(np.float16),
        "response_peak": peak.astype(np.float32),
    }.items():
        arrays[name][:] = values


def shard_files(shard: int) -> list[str]:
    """Where shard number `shard` lies in the arrays, relative to the group."""
    return [f"dominant_class/c/{shard}/0/0", f"dominant_response/c/{shard}/0/0", f"response_peak/c/{shard}"]


def open_maps(path: Path) -> "zarr.Group":
    """The maps of a run, to read. Of format 3 alone, as ours are: an array of format 2 can be pickled.

    Raises InputError where what describes them is no file.
    """
    import zarr

    if not is_remote(path):
        for described in (path / "zarr.json", *path.glob("*/zarr.json")):
            if described.exists():
                check_regular(described)
    return zarr.open_group(readable_store(path), mode="r", zarr_format=3)


def describe_maps(path: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], Any]:
    """Shape and dtype of a run's arrays, by name, and the id of the run that they say they are of. Reads no maps."""
    group = open_maps(path)
    return {name: (array.shape, str(array.dtype)) for name, array in group.arrays()}, group.attrs.get("run_id")


def readable_store(path: Path) -> Any:
    """What Zarr reads: the path, or its own connection to S3."""
    if not is_remote(path):
        return path
    import zarr.storage

    return zarr.storage.FsspecStore.from_url(str(path), storage_options=remote(path)[0].storage_options, read_only=True)
