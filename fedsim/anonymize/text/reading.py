"""Many texts read at once: in one process, or in several where there is enough to read."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from fedsim.anonymize.text.engines import Engine, EngineName, engine
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.span import Span

__all__ = ["Record", "read"]

#: what is known of the person that a text is about: a column's name, the value in it
Record = Sequence[tuple[str, str]]

_SLICE = 2_000  # texts that a process is given at a time
_WORTH = 1_000_000  # characters; for fewer, starting processes takes longer than reading


def read(
    texts: Sequence[str],
    records: Iterable[Record],
    name: EngineName,
    kinds: tuple[str, ...] | None,
    processes: int = 1,
) -> Iterator[list[Span]]:
    """Yield the spans of each text, in order, the same for any number of processes.

    `records`: one for each text; its values are found in any spelling. `kinds`: by default all.
    Raise `SetupError` where the engine is not installed, `ConfigError` for an unknown kind.
    """
    find = _engine(name, kinds)  # what it refuses is refused here
    if processes == 1 or sum(map(len, texts)) < _WORTH:
        return find.find_all(texts, map(_known, records))
    from joblib import Parallel, delayed

    at, all_records = range(0, len(texts), _SLICE), list(records)
    pieces = Parallel(n_jobs=processes, return_as="generator")(
        delayed(_piece)(texts[i : i + _SLICE], all_records[i : i + _SLICE], name, kinds) for i in at
    )
    return chain.from_iterable(pieces)


def _piece(
    texts: Sequence[str],
    records: Sequence[Record],
    name: EngineName,
    kinds: tuple[str, ...] | None,
) -> list[list[Span]]:
    """Read a slice, in a process of joblib's."""
    return list(_engine(name, kinds).find_all(texts, map(_known, records)))


def _known(record: Record) -> KnownValues | None:
    columns = {name: [value] for name, value in record if value}
    return KnownValues.of_columns(columns) if columns else None


@lru_cache(maxsize=4)
def _engine(name: EngineName, kinds: tuple[str, ...] | None) -> Engine:
    return engine(name, kinds)
