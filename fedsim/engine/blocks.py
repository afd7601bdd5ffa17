"""Blocks: clients whose work travels together, and how a worker runs one.

Where the clients of a block are added up exactly, or not at all, any blocks give the same bytes,
and `tapered` chooses them; where a block is trained at once, a run prescribes their size.
"""

import ctypes
import importlib
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter
from time import time
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.app.metadata import Metadata

from fedsim import environment
from fedsim.engine.memos import part_of
from fedsim.messages import error_reply

__all__ = [
    "Block",
    "BlockApp",
    "ClientApp",
    "ClientTimeoutError",
    "Fold",
    "Handlers",
    "Population",
    "WorkerCode",
    "load",
    "own_copy",
    "run_block",
    "split",
    "taper",
]

#: Merges the replies to one instruction content into fewer messages, exactly.
Fold = Callable[[RecordDict, Sequence[Message]], list[Message]]
ClientApp = Callable[[Message, Context], Message]
#: limit(clients): a context that ends with `ClientTimeoutError` when they take too long.
Limit = Callable[[int], AbstractContextManager[None]]
#: Answers a whole block: (content, records that the client at a place alone is sent, metadata of
#: its message, partition ids, states, run config, limit) -> (replies, new states by place), or None
#: where each client is to be asked.
BlockApp = Callable[
    [
        RecordDict,
        Callable[[int], Mapping[str, Any]],
        Callable[[int], dict[str, Any]],
        Sequence[int],
        Sequence[RecordDict | None],
        dict[str, Any],
        Limit,
    ],
    tuple[list[Message], dict[int, RecordDict]] | None,
]


@dataclass(slots=True)
class Handlers:
    """What a worker runs: a ClientApp, and what may make it faster without changing its answers.

    `fold` merges the replies to one content into fewer; `block` answers a whole block at once, of
    `most` clients at most where more did not fit into memory.
    """

    app: ClientApp
    fold: Fold | None = None
    block: BlockApp | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerCode:
    """What a worker loads when it starts: each "module:name"; `app` may be the object itself.

    `fold` and `block`: see `Handlers`. `warm(run_config)` loads what clients need, before the first
    of them is timed.
    """

    app: str | bytes | ClientApp
    fold: str | None = None
    block: str | None = None
    warm: str | None = None

    def open(self, run_config: dict[str, Any]) -> Handlers:
        """Import everything; raises what importing raises."""
        if self.warm:
            load(self.warm)(run_config)
        app: Any = load(self.app) if isinstance(self.app, str) else self.app
        if isinstance(app, bytes):
            app = pickle.loads(app)
        fold, block = (load(name) if name else None for name in (self.fold, self.block))
        return Handlers(app, fold, block)


_BLOCKS_PER_ROUND = 64
_LEAST_WIDTH, _MOST_WIDTH = 16, 64


class ClientTimeoutError(TimeoutError):
    """A client did not finish within its message's time to live."""


@dataclass(frozen=True, slots=True)
class Population:
    """The simulated clients: node ids 1..clients, client i (from 0) being node i + 1."""

    clients: int
    run_config: dict[str, Any]

    @property
    def nodes(self) -> range:
        """Return the node ids, in client order."""
        return range(1, self.clients + 1)

    def client(self, node: int) -> int:
        """Return which client a node is."""
        return node - 1

    def context(self, run_id: int, node: int, state: RecordDict) -> Context:
        """Return what a ClientApp is told about who it is."""
        config = {"partition-id": self.client(node), "num-partitions": self.clients}
        return Context(
            run_id=run_id,
            node_id=node,
            node_config=config,
            state=state,
            run_config=dict(self.run_config),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Clients that answer one content; each may be sent records of its own besides: `own`, by id.

    `common` is the metadata their messages share, `states` what those clients keep that keep
    anything.
    """

    common: dict[str, Any]
    nodes: tuple[int, ...]
    ids: tuple[str, ...]
    states: Mapping[int, RecordDict]
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.nodes)

    @property
    def ttl(self) -> float:
        """Return the longest a single client of the block may take, in seconds."""
        return float(self.common["ttl"])

    def metadata(self, place: int) -> dict[str, Any]:
        """Return the metadata of one client's message, its clock started now."""
        own = {"dst_node_id": self.nodes[place], "message_id": self.ids[place]}
        return self.common | own | {"created_at": time()}

    def part(self, start: int, stop: int) -> "Block":
        """Return the block of some of the clients."""
        nodes, ids = self.nodes[start:stop], self.ids[start:stop]
        states = part_of(self.states, nodes)
        own = {identity: self.own[identity] for identity in ids if identity in self.own}
        return Block(self.common, nodes, ids, states, own)

    def own_records(self, place: int) -> Mapping[str, Any]:
        """Return the records that one client alone is sent, by name."""
        return self.own.get(self.ids[place], {})


def tapered(clients: int, workers: int) -> list[int]:
    """Choose how many clients travel together: fewer and fewer, so that workers end together.

    Each block costs a message and, where updates are added up, a sum that crosses to the driver: a
    round has about 64 of them, or blocks of sixteen clients where it is small. Towards the end a
    block is two thirds of a worker's share of the rest (guided self-scheduling, Polychronopoulos
    and Kuck 1987).

    >>> tapered(20, 2), tapered(3, 1)
    ([7, 5, 3, 2, 1, 1, 1], [2, 1])
    """
    most = min(_MOST_WIDTH, max(_LEAST_WIDTH, -(-clients // _BLOCKS_PER_ROUND)))
    widths = []
    while clients:
        widths.append(min(most, -(-2 * clients // (3 * workers))))
        clients -= widths[-1]
    return widths


def split(block: Block, size: int) -> list[Block]:
    """Cut a block, in its order, into blocks of `size` clients; the last may be smaller."""
    return [block.part(start, start + size) for start in range(0, len(block), size)]


def taper(block: Block, workers: int) -> list[Block]:
    """Cut a block, in its order, into those that `tapered` chooses."""
    stops = list(accumulate(tapered(len(block), workers)))
    return [block.part(start, stop) for start, stop in pairwise([0, *stops])]


def own_copy(content: RecordDict, known: dict[int, Any] | None = None) -> RecordDict:
    """Copy a content but for the bytes of its arrays, which nobody can change.

    `known` has copies of records by identity, and gets the new ones: what is shared stays so.
    """
    known = {} if known is None else known
    return RecordDict(
        {name: known.setdefault(id(record), _copy(record)) for name, record in content.items()}
    )


def _copy(record: Any) -> Any:
    if isinstance(record, ArrayRecord):
        return ArrayRecord(dict(record))  # of arrays of its own
    return type(record)({k: list(v) if isinstance(v, list) else v for k, v in record.items()})


def load(reference: str) -> Any:
    """Import what "module:name" names; the name may have dots.

    Raises what importing raises, and `AttributeError`.
    """
    module, name = reference.split(":")
    return attrgetter(name)(importlib.import_module(module))


def run_block(
    handlers: Handlers, population: Population, content: RecordDict, block: Block
) -> tuple[list[Message], dict[int, RecordDict], str]:
    """Run every client of a block; a client that raises becomes an error reply.

    Returns the replies (fewer than clients where they were merged), the new client states, and ""
    or why the block could not be answered at once.
    """
    if handlers.most and len(block) > handlers.most:
        return _in_parts(handlers, population, content, block)
    incident, is_too_large = "", False
    if handlers.block:
        try:
            answered = _at_once(handlers.block, population, content, block)
        except Exception as error:
            is_too_large = len(block) > 1 and environment.is_out_of_memory(error)
            # The clients are asked one by one: that shows whose fault it is.
            answered, incident = None, f"block asked client by client: {error!r}"
        if answered is not None:
            return *answered, ""
    # Not where the error is handled: until that ends, it holds all that had been allocated.
    if is_too_large:
        environment.free_gpu_memory()
        handlers.most = -(-len(block) // 2)
        replies, states, further = _in_parts(handlers, population, content, block)
        return replies, states, further or f"out of memory: block of {len(block)} clients halved"
    return *_one_by_one(handlers, population, content, block), incident


def _in_parts(
    handlers: Handlers, population: Population, content: RecordDict, block: Block
) -> tuple[list[Message], dict[int, RecordDict], str]:
    """Run a block that does not fit into memory as several: later ones are cut alike."""
    replies: list[Message] = []
    states: dict[int, RecordDict] = {}
    incident = ""
    for part in split(block, handlers.most or len(block)):
        own, kept, further = run_block(handlers, population, content, part)
        replies += own
        states |= kept
        incident = further or incident
    return replies, states, incident


def _at_once(
    answer: BlockApp, population: Population, content: RecordDict, block: Block
) -> tuple[list[Message], dict[int, RecordDict]] | None:
    answered = answer(
        content,
        block.own_records,
        block.metadata,
        [population.client(node) for node in block.nodes],
        [block.states.get(node) for node in block.nodes],
        population.run_config,
        lambda clients: _time_limit(block.ttl, clients),
    )
    if answered is None:
        return None
    replies, states = answered
    return replies, {block.nodes[place]: state for place, state in states.items()}


def _one_by_one(
    handlers: Handlers, population: Population, content: RecordDict, block: Block
) -> tuple[list[Message], dict[int, RecordDict]]:
    replies, states = [], {}
    for place, node in enumerate(block.nodes):
        # Clients take turns here but would run side by side: time counts from a client's start.
        metadata = Metadata(**block.metadata(place))
        # A client may change what it is given, and may fail half way.
        sent = RecordDict({**content, **block.own_records(place)})
        message = Message(content=own_copy(sent), metadata=metadata)
        state = block.states.get(node)
        context = population.context(metadata.run_id, node, own_copy(state or RecordDict()))
        try:
            with _time_limit(metadata.ttl):
                reply = handlers.app(message, context)
            if not isinstance(reply, Message):
                raise TypeError(f"the client returned {type(reply).__name__}, not a Message")
        except (Exception, SystemExit) as error:  # sys.exit is no way to end a worker
            replies.append(error_reply(message, error))
            continue
        if len(context.state) or state is not None:
            states[node] = context.state
        replies.append(reply)
    return (handlers.fold(content, replies) if handlers.fold else replies), states


@contextmanager
def _time_limit(ttl: float, clients: int = 1) -> Iterator[None]:
    """Raise `ClientTimeoutError` in this thread after `ttl` seconds for each of `clients`.

    A signal in the main thread (interrupts sleeps and most system calls), an asynchronous
    exception elsewhere (takes effect at the next Python instruction).
    """
    if ttl >= DEFAULT_TTL:  # what Flower sets where nobody asked for a limit
        yield
        return
    if threading.current_thread() is threading.main_thread():
        yield from _by_signal(ttl * clients)
    else:
        yield from _by_thread(ttl * clients)


def _by_signal(seconds: float) -> Iterator[None]:
    def expire(*_: object) -> None:
        raise ClientTimeoutError(f"no result within {seconds:g} s (rounds.timeout_s)")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _by_thread(seconds: float) -> Iterator[None]:
    target, is_running, lock = ctypes.c_ulong(threading.get_ident()), [True], threading.Lock()

    def expire() -> None:
        with lock:  # never after the client has finished
            if is_running[0]:
                error = ctypes.py_object(ClientTimeoutError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, error)

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            is_running[0] = False
