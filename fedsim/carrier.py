"""Who carries the messages of a round: what rounds ask of any grid."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict

__all__ = ["Carrier", "Mailbox"]


class Carrier(Protocol):
    """Who carries messages: our grids, or Flower's behind `fedsim.engine.flower.FlowerCarrier`."""

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send the same content to many nodes, wait, return the replies in any order."""
        ...

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send each node a content of its own, wait, return the replies in any order.

        Records that several contents hold (the same objects, as a model) travel once.
        """
        ...


@runtime_checkable
class Mailbox(Protocol):
    """Who carries messages without waiting for their replies, between real machines."""

    def post(
        self, content: RecordDict, nodes: Sequence[int], kind: str, *, ttl: float, group_id: str
    ) -> dict[str, int]:
        """Send the same content to nodes; return the nodes by the identity of their message."""
        ...

    def collect(self, waiting: Mapping[str, int]) -> list[tuple[str, Message]]:
        """Return the replies that are there, each with the identity of what it answers.

        Each comes from the node that `waiting` names.
        """
        ...

    def rest(self, waiting: int) -> None:
        """Sleep until so many replies may be asked for again."""
        ...
