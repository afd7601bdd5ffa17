"""Blocks: clients whose work travels together, and how a worker runs one.

Which clients form a block depends on the messages alone, never on the number of workers.
"""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.app.metadata import Metadata

from fedsim.messages import error_reply

__all__ = [
    "Block",
    "ClientTimeoutError",
    "Fold",
    "Item",
    "Population",
    "block_size",
    "run_block",
    "split",
]

#: Merges the replies to one instruction content into fewer messages, exactly.
Fold = Callable[[RecordDict, Sequence[Message]], list[Message]]
ClientApp = Callable[[Message, Context], Message]

_BLOCKS_PER_ROUND = 64


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

    def context(self, run_id: int, node: int, state: RecordDict) -> Context:
        """Return what a ClientApp is told about who it is."""
        config = {"partition-id": node - 1, "num-partitions": self.clients}
        return Context(
            run_id=run_id,
            node_id=node,
            node_config=config,
            state=state,
            run_config=self.run_config,
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One client's part of a block: its message's metadata, and its state where it has any."""

    metadata: dict[str, Any]
    state: RecordDict | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Clients that answer the same content."""

    items: tuple[Item, ...]

    @property
    def ttl(self) -> float:
        """Return the longest a single client of the block may take, in seconds."""
        return float(max(item.metadata["ttl"] for item in self.items))


def block_size(messages: int) -> int:
    """Choose how many clients travel together: about 64 blocks a round, at most 64 clients each.

    >>> block_size(20), block_size(1000), block_size(100_000)
    (1, 16, 64)
    """
    return min(64, max(1, -(-messages // _BLOCKS_PER_ROUND)))


def split(items: Sequence[Item], size: int) -> list[Block]:
    """Cut items, in the order given, into blocks."""
    return [Block(tuple(items[i : i + size])) for i in range(0, len(items), size)]


def run_block(
    app: ClientApp, population: Population, content: RecordDict, block: Block, fold: Fold | None
) -> tuple[list[Message], dict[int, RecordDict]]:
    """Run every client of a block in turn; a client that raises becomes an error reply.

    Returns the replies (fewer than clients where `fold` merged them) and the new client states.
    """
    replies, states = [], {}
    for item in block.items:
        # Clients take turns here but would run side by side: time counts from a client's start.
        metadata = Metadata(**item.metadata | {"created_at": time()})
        # A client may change the content it is given: each gets an outer dictionary of its own.
        message = Message(content=RecordDict(dict(content)), metadata=metadata)
        node = metadata.dst_node_id
        context = population.context(metadata.run_id, node, item.state or RecordDict())
        try:
            with _time_limit(metadata.ttl):
                reply = app(message, context)
        except Exception as error:
            replies.append(error_reply(message, error))
            continue
        if len(context.state) or item.state is not None:
            states[node] = context.state
        replies.append(reply)
    return (fold(content, replies) if fold else replies), states


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `ClientTimeoutError` in this thread after `seconds`.

    A signal in the main thread (interrupts sleeps and most system calls), an asynchronous
    exception elsewhere (takes effect at the next Python instruction).
    """
    if seconds >= DEFAULT_TTL:  # what Flower sets where nobody asked for a limit
        yield
        return
    if threading.current_thread() is threading.main_thread():
        yield from _by_signal(seconds)
    else:
        yield from _by_thread(seconds)


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
