"""What both simulated grids share: Flower's `Grid` interface over blocks of clients."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Lock
from time import time
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.engine.blocks import Block, Population, own_copy, split, taper
from fedsim.engine.memos import part_of
from fedsim.engine.sharing import grouped

__all__ = ["BlockGrid", "RunBlocks"]

#: Runs blocks, each with the content it answers; yields (replies, new states, clients done).
RunBlocks = Callable[
    [Sequence[tuple[RecordDict, Block]], float | None],
    Iterable[tuple[list[Message], dict[int, RecordDict], int]],
]

_SERVER_NODE = 1
#: The metadata that messages of a block share; a client's clock starts when its turn comes.
_COMMON = ("run_id", "src_node_id", "reply_to_message_id", "group_id", "ttl", "message_type")


class BlockGrid(Grid):  # type: ignore[misc]
    """Flower's `Grid` for simulated clients; `run_blocks` says where they run.

    `states` holds every client's `Context.state` between messages, by node id, where not empty: in
    memory, unless whoever opens the grid puts a `fedsim.engine.memos.MemoStore` there.
    `on_progress(done, asked)` and `on_reply(reply)` are called while replies come in. `incidents`
    grows with what went wrong with blocks and workers, for the run's log.
    """

    def __init__(
        self,
        population: Population,
        run_blocks: RunBlocks,
        *,
        size: int | None = None,
        workers: Callable[[], int] = lambda: 1,
    ) -> None:
        self.population = population
        self.states: MutableMapping[int, RecordDict] = {}
        self.incidents: list[str] = []
        self.on_progress: Callable[[int, int], None] = lambda done, asked: None
        self.on_reply: Callable[[Message], None] = lambda reply: None
        self._run_blocks = run_blocks
        self._size, self._workers = size, workers
        self._run = Run.create_empty(run_id=1)
        self._ids = count(1)
        self._inbox: dict[str, Message] = {}
        self._unanswered: set[str] = set()  # pushed, and not pulled yet
        self._lock = Lock()  # one exchange at a time
        self._pushed: ThreadPoolExecutor | None = None
        self._failure: BaseException | None = None
        # Flower's Message refuses to be made outside a run; this is the one run there is.
        TaskIdentity.task_id = TaskIdentity.run_id = self._run.run_id
        TaskIdentity.node_id = _SERVER_NODE

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower's own grids do."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, as Flower's own grids do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids of all clients, in client order."""
        return self.population.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages in the background; their replies wait for `pull_messages`."""
        sent = _as_they_are(messages)
        ids = [self._address(message) for message in sent]
        self._unanswered.update(ids)
        if self._pushed is None:
            self._pushed = ThreadPoolExecutor(1)
        self._pushed.submit(self._deliver, sent)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once; for unknown messages an error, as Flower.

        Raises what stopped the grid since, such as `RunFailedError`.
        """
        if self._failure is not None:
            raise self._failure
        found = []
        for identity in message_ids:
            if identity in self._inbox:
                found.append(self._inbox.pop(identity))
                self._unanswered.discard(identity)
            elif identity not in self._unanswered:
                found.append(_unknown(identity, self._run.run_id))
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the messages and return the replies, in no particular order.

        Where the grid folds, one reply may stand for several clients. A client that outlives its
        message's time to live, or `timeout` altogether, is answered by an error or not at all.
        """
        sent = list(messages)
        for message in sent:
            self._address(message)
        return list(self._carry(self._by_content(sent), timeout))

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterator[Message]:
        """Send the same content to many nodes, without a message for each; replies as they come.

        A thousand Message objects take longer to make than a thousand small clients to train.
        """
        block = self._block_of(self._common(kind, ttl, group_id), [(node, {}) for node in nodes])
        return self._carry([(content, block)], None)

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterator[Message]:
        """Send each node a content of its own, without a message for each; replies as they come.

        Records that several contents hold, the same objects, cross to each worker once.
        """
        common = self._common(kind, ttl, group_id)
        sent = [
            (shared, self._block_of(common, [(contents[i][0], own) for i, own in members]))
            for shared, members in grouped([content for _, content in contents])
        ]
        return self._carry(sent, None)

    def _common(self, kind: str, ttl: float | None, group_id: str) -> dict[str, Any]:
        return {
            "run_id": self._run.run_id,
            "src_node_id": _SERVER_NODE,
            "reply_to_message_id": "",
            "group_id": group_id,
            "ttl": DEFAULT_TTL if ttl is None else ttl,
            "message_type": kind,
        }

    def _block_of(
        self, common: dict[str, Any], members: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> Block:
        """Return the block of nodes, each with the records that it alone is sent."""
        ids = tuple(self._identity() for _ in members)
        nodes = tuple(node for node, _ in members)
        own = {id: records for id, (_, records) in zip(ids, members, strict=True) if records}
        return Block(common, nodes, ids, part_of(self.states, nodes), own)

    def _identity(self) -> str:
        return f"{self._run.run_id}-{next(self._ids)}"

    def _address(self, message: Message) -> str:
        identity = self._identity()
        message.metadata.__dict__["_message_id"] = identity
        if message.metadata.dst_node_id not in self.population.nodes:
            raise ValueError(f"no client has node id {message.metadata.dst_node_id}")
        return identity

    def _deliver(self, sent: Sequence[Message]) -> None:
        try:
            for reply in self._carry(self._by_content(sent), None):
                self._inbox[reply.metadata.reply_to_message_id] = reply
        except BaseException as error:
            self._failure = error

    def _carry(
        self, sent: Sequence[tuple[RecordDict, Block]], timeout: float | None
    ) -> Iterator[Message]:
        deadline = None if timeout is None else time() + timeout
        done, asked = 0, sum(len(block) for _, block in sent)
        jobs = [
            (content, part)
            for content, block in sent
            for part in (split(block, self._size) if self._size else taper(block, self._workers()))
        ]
        with self._lock:
            for answered, states, clients in self._run_blocks(jobs, deadline):
                self.states.update(states)
                done += clients
                self.on_progress(done, asked)
                for reply in answered:
                    self.on_reply(reply)
                    yield reply

    def _by_content(self, sent: Sequence[Message]) -> list[tuple[RecordDict, Block]]:
        """Group messages that share what they carry: that crosses to each worker once."""
        alike: dict[tuple[Any, ...], list[Message]] = {}
        for message in sent:
            common = tuple(getattr(message.metadata, name) for name in _COMMON)
            alike.setdefault(common, []).append(message)
        return [
            (shared, self._block([(group[i], own) for i, own in members]))
            for group in alike.values()
            for shared, members in grouped([message.content for message in group])
        ]

    def _block(self, group: Sequence[tuple[Message, Mapping[str, Any]]]) -> Block:
        metadata = [message.metadata for message, _ in group]
        nodes = tuple(own.dst_node_id for own in metadata)
        return Block(
            {name: getattr(metadata[0], name) for name in _COMMON},
            nodes,
            tuple(own.message_id for own in metadata),
            part_of(self.states, nodes),
            {message.metadata.message_id: own for message, own in group if own},
        )


def _unknown(identity: str, run: int) -> Message:
    """Return Flower's reply for a message it knows nothing of."""
    # With it comes Flower's SuperLink and what serves it: a fifth of the time to start.
    from flwr.server.superlink.linkstate import utils

    reply: Message = utils.create_message_error_unavailable_ins_message(identity, run)
    return reply


def _as_they_are(messages: Iterable[Message]) -> list[Message]:
    """Copy messages, so that their sender may change the contents; what they share stays shared."""
    sent = list(messages)
    records: dict[int, Any] = {}
    contents: dict[int, RecordDict] = {}
    for message in sent:
        if id(message.content) not in contents:
            contents[id(message.content)] = own_copy(message.content, records)
    return [Message(contents[id(m.content)], metadata=m.metadata) for m in sent]
