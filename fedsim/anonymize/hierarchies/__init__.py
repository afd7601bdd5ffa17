"""Generalization hierarchies, one kind per file: trees over an ordered, public domain of leaves."""

from fedsim.anonymize.hierarchies._tree import Hierarchy

__all__ = ["Hierarchy"]
