"""The maps of a shard as a run stored them: for an analysis that is added when the maps are made."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flows.analyses.analysis import ShardMaps
from storage.filesystems import readable
from storage.maps import open_maps
from storage.runs.plan import Unit
from storage.runs.run import Run


def read_shard(run: Run, shard: Unit) -> ShardMaps:
    """The responses are those of 16 bits that are stored, of which the last digits differ from what was measured."""
    maps: Any = open_maps(run.maps)
    own = slice(shard.start, shard.stop)
    response = maps["dominant_response"][own].astype(np.float32) * maps["response_peak"][own][:, None, None]
    wanted = [("sample_index", ">=", shard.start), ("sample_index", "<", shard.stop)]
    columns = ["sample_index", "label"]
    rows = pq.read_table(readable(run.table("samples")), columns=columns, filters=wanted, partitioning=None)
    labels = np.full(shard.size, -1, np.int64)
    labels[rows["sample_index"].to_numpy() - shard.start] = rows["label"].fill_null(-1).to_numpy()
    return ShardMaps(labels, maps["dominant_class"][own], response)
