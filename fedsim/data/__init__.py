"""Data sets (one file each, file name = key), and what they hand over."""

from fedsim.data._types import ClientData, Dataset, Examples, Meta, Partition

__all__ = ["ClientData", "Dataset", "Examples", "Meta", "Partition"]
