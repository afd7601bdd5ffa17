"""What the contents of many messages share, so that it travels once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import RecordDict

__all__ = ["grouped"]

#: Place of a content in the list that was given, and the records that it alone holds.
Member = tuple[int, Mapping[str, Any]]


def grouped(contents: Sequence[RecordDict]) -> list[tuple[RecordDict, list[Member]]]:
    """Group contents that hold the same records, as objects, and part what each holds alone.

    Contents that hold nothing of anybody else are groups of their own, but for small ones, without
    arrays, which travel together whatever is in them.
    """
    holders = Counter(
        key for content in contents for key in {(n, id(record)) for n, record in content.items()}
    )
    groups: dict[Any, tuple[RecordDict, list[Member]]] = {}
    for place, content in enumerate(contents):
        names = [name for name, record in content.items() if holders[name, id(record)] > 1]
        if not names and content.array_records:
            names = list(content)
        shared = tuple((name, id(content[name])) for name in names)
        if shared not in groups:
            groups[shared] = RecordDict({name: content[name] for name in names}), []
        own = {name: record for name, record in content.items() if name not in names}
        groups[shared][1].append((place, own))
    return list(groups.values())
