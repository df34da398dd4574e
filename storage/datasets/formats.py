"""The formats of datasets. To add one: write its file, and name it here."""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from storage.datasets.classes import MOST_CLASSES
from storage.datasets.dataset import Dataset, DatasetSpec
from storage.datasets.folder import FolderDataset, FolderSpec
from storage.datasets.idx import IdxDataset, IdxSpec
from storage.datasets.manifest import ManifestDataset, ManifestSpec
from storage.errors import InputError

FORMATS: dict[type, Callable[[Any], Dataset]] = {
    IdxSpec: IdxDataset,
    FolderSpec: FolderDataset,
    ManifestSpec: ManifestDataset,
}
"""What opens a dataset, by the options of its format."""

if TYPE_CHECKING:
    AnySpec = DatasetSpec
else:
    AnySpec = Annotated[reduce(or_, FORMATS), Field(discriminator="format")]


def open_dataset(spec: DatasetSpec) -> Dataset:
    """Opens a dataset and checks what can be checked without reading every image.

    Raises InputError: a path that is not there or not readable, no images, a label outside the classes.
    """
    dataset = FORMATS[type(spec)](spec)
    if len(dataset.classes) > MOST_CLASSES:
        raise InputError(f"{spec.path} has {len(dataset.classes):,} classes, and an audit holds {MOST_CLASSES:,}: merge some")
    return dataset
