"""Whose node is where in a federation: nodes that are there, come late, refuse, or are missing.

Rounds address clients by their numbers, which every node says of itself: Flower gives nodes random
ids in random order, and a run that sampled those could not be repeated. A client whose node is not
there is drawn like any other, and lost: who is drawn does not depend on who is there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode

from fedsim.engine.flower import FlowerCarrier, pull, set_source
from fedsim.errors import RunFailedError

__all__ = ["Members"]

_QUERY = "query"
#: Errors of Flower itself: nobody answered. What a client app raises has another code.
_GONE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
         ErrorCode.NODE_UNAVAILABLE)  # fmt: skip
_TO_SAY_S = 300.0  # how long a node has to say which client it is
_TOLD_AFTER_S = 10.0  # nodes that start together are not there at once
_SHOWN = 10


@dataclass(slots=True)
class Members:
    """A `Carrier` and `Mailbox` whose addresses are the numbers of clients, 0 to `clients` - 1.

    `tell` is told what is waited for; `incidents` grows by who is missing, refuses, or comes late.
    Nodes are looked for as long as some are missing, whenever something is sent.
    """

    carrier: FlowerCarrier
    clients: int
    tell: Callable[[str], None] = lambda text: None
    incidents: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    nodes: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)
    _has_begun: bool = False

    @property
    def missing(self) -> list[int]:
        """The clients without a node."""
        return [client for client in range(self.clients) if client not in self.nodes]

    def gather(self, least: int, *, wait_s: float) -> None:
        """Wait for all nodes; begin with those there are, if they are `least`, when none has come
        for `wait_s`.

        Raises `RunFailedError` where they are fewer, at once where so many refuse that they will
        be.
        """
        latest, known, is_told = self.clock(), 0, False
        while self.missing:
            self._look()
            if len(self.nodes) > known:
                latest, known = self.clock(), len(self.nodes)
            waited = self.clock() - latest
            if self.clients - len(self.refused) < least:
                reasons = "; ".join(f"node {n}: {why}" for n, why in list(self.refused.items())[:3])
                raise RunFailedError(
                    f"{len(self.refused)} of {self.clients} nodes refuse, and {least} are the "
                    f"fewest that this experiment runs with. {reasons}"
                )
            if not self.missing or waited > wait_s:
                break
            if waited > min(_TOLD_AFTER_S, wait_s / 2) and not is_told:
                is_told = True
                self.tell(f"waiting up to {wait_s:g} s for the nodes of {_named(self.missing)}")
            self.rest(len(self._asked))
        if len(self.nodes) < least:
            raise RunFailedError(
                f"no node has answered for {_named(self.missing)} of {self.clients} within "
                f"{wait_s:g} s; {len(self.nodes)} did, and {least} are the fewest that this "
                "experiment runs with. Start the missing nodes, and look into their logs"
            )
        self._has_begun = True
        if self.missing:
            self.incidents.append(
                f"without the nodes of {_named(self.missing)}: they are lost in rounds that draw "
                "them until they are there"
            )

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send the same content to many clients; return the replies as they come."""
        return self.scatter(
            [(client, content) for client in nodes], kind, ttl=ttl, group_id=group_id
        )

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send each client a content of its own; return the replies as they come.

        Of clients without a node there is an error at once.
        """
        if self.missing:
            self._look()
        there = [(self.nodes[c], content) for c, content in contents if c in self.nodes]
        absent = [client for client, _ in contents if client not in self.nodes]
        clients = {node: client for client, node in self.nodes.items()}
        replies = self.carrier.scatter(there, kind, ttl=ttl, group_id=group_id)
        return self._by_client(replies, clients, [self._nobody(c, kind, group_id) for c in absent])

    def post(
        self, content: RecordDict, nodes: Sequence[int], kind: str, *, ttl: float, group_id: str
    ) -> dict[str, int]:
        """Send clients the same content; return them by the identity of their message.

        Clients without a node are not in it.
        """
        if self.missing:
            self._look()
        clients = {self.nodes[client]: client for client in nodes if client in self.nodes}
        posted = self.carrier.post(content, list(clients), kind, ttl=ttl, group_id=group_id)
        return {identity: clients[node] for identity, node in posted.items()}

    def collect(self, waiting: Mapping[str, int]) -> list[tuple[str, Message]]:
        """Return the replies that are there, each with the identity of what it answers."""
        return self.carrier.collect(waiting)

    def rest(self, waiting: int) -> None:
        """Sleep until so many replies may be asked for again."""
        self.carrier.rest(waiting)

    def _by_client(
        self, replies: Iterable[Message], clients: dict[int, int], absent: Iterable[Message]
    ) -> Iterator[Message]:
        yield from absent
        for reply in replies:
            set_source(reply, clients[reply.metadata.src_node_id])
            yield reply

    def _nobody(self, client: int, kind: str, group_id: str) -> Message:
        error = Error(ErrorCode.NODE_UNAVAILABLE, "its node has not been there since the run began")
        metadata = Metadata(
            run_id=0,
            message_id="",
            src_node_id=client,
            dst_node_id=0,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=0.0,
            message_type=kind,
        )
        return Message(error=error, metadata=metadata)

    def _look(self) -> None:
        """Ask nodes that are new which client they are, and hear those that were asked."""
        now, grid = self.clock(), self.carrier.grid
        self._asked = {id: own for id, own in self._asked.items() if own[1] > now}
        if self._asked:
            for reply in pull(grid, list(self._asked)):
                node, _ = self._asked.pop(reply.metadata.reply_to_message_id, (None, 0.0))
                if node is not None:
                    self._hear(node, reply)
        known = {*self.nodes.values(), *self.refused, *(node for node, _ in self._asked.values())}
        new = [node for node in grid.get_node_ids() if node not in known]
        if not new:
            return
        questions = [
            Message(RecordDict(), node, _QUERY, ttl=_TO_SAY_S, group_id="0") for node in new
        ]
        ids = grid.push_messages(questions)
        self._asked |= {
            id: (node, now + _TO_SAY_S) for id, node in zip(ids, new, strict=True) if id
        }

    def _hear(self, node: int, reply: Message) -> None:
        """Write down which client a node is, or why it takes no part."""
        if reply.has_error():
            if reply.error.code not in _GONE:  # who is gone may come back
                self.refused[node] = reply.error.reason or "no reason given"
                self.incidents.append(f"node {node} takes no part: {self.refused[node]}")
            return
        try:
            client = int(reply.content.config_records["client"]["partition-id"])
        except (KeyError, TypeError, ValueError):
            client = -1
        if not 0 <= client < self.clients or client in self.nodes:
            self.refused[node] = f"it says that it is client {client}, which is another's number"
            self.incidents.append(f"node {node} takes no part: {self.refused[node]}")
            return
        self.nodes[client] = node
        if self._has_begun:
            self.incidents.append(f"the node of client {client} is there now")


def _named(clients: Sequence[int]) -> str:
    shown = ", ".join(map(str, clients[:_SHOWN]))
    more = f" and {len(clients) - _SHOWN} more" if len(clients) > _SHOWN else ""
    return f"client(s) {shown}{more}"
