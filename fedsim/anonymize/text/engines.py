"""What finds personal data in a text: the rules of this package, or Presidio's recognizers."""

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, Protocol

from fedsim.anonymize.text.detect import Finder
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.presidio import PresidioFinder
from fedsim.anonymize.text.span import Span

__all__ = ["Engine", "EngineName", "engine"]

EngineName = Literal["rules", "presidio"]


class Engine(Protocol):
    """Finds the spans of a text, in order and without overlaps."""

    def __call__(self, text: str, known: KnownValues | None = None) -> list[Span]:
        """Return the spans of a text; `known`: values of the record that are found as well."""

    def find_all(
        self, texts: Iterable[str], known: Iterable[KnownValues | None] | None = None
    ) -> Iterator[list[Span]]:
        """Yield the spans of each text, as a call for each would; `known` of each text."""


def engine(name: EngineName, kinds: Collection[str] | None = None) -> Engine:
    """Return an engine for some kinds, by default all.

    Raise `SetupError` where Presidio is not installed, `ConfigError` for an unknown kind.
    """
    return Finder(kinds) if name == "rules" else PresidioFinder(kinds)
