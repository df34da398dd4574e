"""Datasets in, one file a format, behind one protocol."""

from storage.datasets.dataset import Dataset, DatasetSpec, Samples
from storage.datasets.formats import open_dataset

__all__ = ["Dataset", "DatasetSpec", "Samples", "open_dataset"]
