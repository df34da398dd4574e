"""What a dataset is, whichever its format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from storage.text import shorten

MOST_LISTED = 10
"""Of what a sentence lists; the rest is "…"."""


class DatasetSpec(Protocol):
    """What opens a dataset, on any machine that sees its files: each format has its own, with its own strict options.

    format: the name of the format. path: where the dataset is; any fsspec address. classes: names in the order of the model's
    outputs; by default the dataset's own. A name that occurs twice gets its index: "crane (134)". addresses: the options that say
    where files are, which are relative to the config.
    """

    addresses: ClassVar[tuple[str, ...]]

    @property
    def format(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True)
class Samples:
    """A contiguous range of a dataset. All sequences have one entry a sample, in order.

    images: uint8 arrays (H, W) or (H, W, 3); None where the sample could not be read, and `failures` says why.
    labels: (N,) int64, −1 = unknown. hashes: SHA-256 of each sample's content (pixels or file), hexadecimal.
    meta: the further columns of a manifest, named `meta_*`, as rows of this range.
    """

    ids: list[str]
    images: list[np.ndarray | None]
    labels: np.ndarray
    hashes: list[str]
    failures: dict[int, str] = field(default_factory=dict)
    meta: pa.Table | None = None


class Dataset(Protocol):
    """A dataset of labelled images.

    classes: names in the order of the model's outputs. meta_schema: the `meta_*` fields, empty where there are none.
    passed_over: how many files were found that are no samples, by suffix, in lower case; "" = none. empty_classes: classes
    without a sample, and class folders without an image, which are no classes where these are not named.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema
    passed_over: Mapping[str, int]
    empty_classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop). What cannot be read is a failure of its sample, never an exception."""
        ...

    def ids(self, start: int, stop: int) -> list[str]:
        """The names of the samples of [start, stop), without reading them."""
        ...

    def content_hash(self) -> str:
        """SHA-256 over names, labels and content: equal where, and only where, the dataset is the same."""
        ...


def say_passed_over(passed_over: Mapping[str, int]) -> str:
    """`Dataset.passed_over` in words: "6 files with other suffixes (.heic 4, none 2)"."""
    total = sum(passed_over.values())
    listed = [
        f"{suffix or 'none'} {count:,}" for suffix, count in sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    ]
    return f"{total:,} {'file' if total == 1 else 'files'} with other suffixes ({shorten(listed, MOST_LISTED)})"


def say_empty(empty_classes: Sequence[str]) -> str:
    """`Dataset.empty_classes` in words: "3 ('cat', 'dog', 'owl')"."""
    return f"{len(empty_classes):,} ({shorten(list(map(repr, empty_classes)), MOST_LISTED)})"
