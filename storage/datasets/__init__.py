"""Datasets in, one file a format, behind one protocol."""

from storage.datasets.dataset import Dataset, DatasetSpec, Samples

__all__ = ["Dataset", "DatasetSpec", "Samples"]
