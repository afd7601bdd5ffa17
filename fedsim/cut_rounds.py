"""Clients agree on a cut: the server's side, level after level, on any carrier of messages.

Whose counts are in the first sum that is opened is *in* the agreement, and stays in it: every later
sum is over the same clients, or it is not opened. Sums over two sets of clients that differ by one
of them differ by that one's counts. So a level in which somebody is missing is asked for again, a
few times. Who stays away from the first one is left out of all; who stays away from a later one
ends the agreement there: groups that are open become classes, which are wider, and have what the
protection asks for all the same.

Clients that are in no sum are *late*: they get the frozen cut like everybody else, and what they
let out by it is `fedsim.anonymize.shared.kept_by`'s to say.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Error, Message, RecordDict
from numpy.typing import NDArray

from fedsim import agreement, cut_messages, messages, sampling, secure_messages, secure_rounds
from fedsim.agreement import Agreed
from fedsim.anonymize import shared
from fedsim.anonymize.shared import Cut
from fedsim.anonymize.table import Encoded
from fedsim.carrier import Carrier
from fedsim.config.schema import RunConfig
from fedsim.errors import ConfigError, DataError, Problem, SecAggAborted
from fedsim.federation import Federation
from fedsim.privacy.events import Release
from fedsim.privacy.noise import Stream, integer_gaussian
from fedsim.secagg.identities import Directory
from fedsim.secagg.parameters import Phase
from fedsim.secure_rounds import Question

__all__ = ["CutCarrier", "agree", "joined", "run_name"]

_SESSIONS = 5  # that a level gets before whoever is missing counts as gone
_NEEDS_CUT = (messages.TRAIN, secure_messages.MASKED)


@dataclass(frozen=True, slots=True)
class _Server:
    """Whom the server asks, and how."""

    grid: Carrier
    nodes: Sequence[int]
    config: RunConfig
    directory: Directory
    columns: Encoded  # no row: what all clients have in common

    def level(
        self, cut: Cut, ids: Sequence[int], *, is_first: bool
    ) -> tuple[NDArray[np.int64], Sequence[int]]:
        """Return the sums of a level, and whose they are. Raises `SecAggAborted`."""
        for attempt in range(_SESSIONS):
            try:
                total, members = secure_rounds.summed(
                    self.grid,
                    self.nodes,
                    self._question(cut, ids, attempt, is_first=is_first),
                    ids,
                    {},
                    self.directory,
                    self.config.secure_sum.name,
                )
            except SecAggAborted:
                if attempt == _SESSIONS - 1:
                    raise
            else:
                return total.astype(np.int64), members
        raise AssertionError("the last session returns or raises")

    def _question(self, cut: Cut, ids: Sequence[int], attempt: int, *, is_first: bool) -> Question:
        encoded = cut.encode()
        told = agreement.question(
            self.config.secure_sum,
            run=run_name(self.config),
            length=shared.length(cut, self.columns),
            encoded=encoded,
        )
        return Question(
            told=told,
            content=cut_messages.cut_content(encoded),
            size_bytes=len(encoded),
            masked=cut_messages.MASKED,
            clear=cut_messages.COUNTS,
            timeout_s=self.config.rounds.timeout_s,
            gone=self._gone(cut.sums, ids, attempt),
            is_whole=not (is_first and attempt == _SESSIONS - 1),
        )

    def _gone(self, level: int, ids: Sequence[int], attempt: int) -> dict[int, Phase]:
        """Draw who drops out of a level, asked for the first time, or again."""
        share, seed = self.config.rounds.dropout, self.config.seed
        return sampling.dropouts(ids, share, seed=seed, round=level, purpose=f"cut/{attempt}")


def run_name(config: RunConfig) -> str:
    """Return what sessions of an experiment's agreement are called: unlike those of its rounds."""
    return f"{config.name[:100]}/cut/{secure_rounds.experiment_name(config)}"


def agree(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    directory: Directory,
    *,
    charge: Callable[[int, Release], None] | None = None,
    stream: Stream | None = None,
) -> Agreed:
    """Have the clients of a federation that `awaits_cut` agree on one; `nodes[i]` is client i's.

    `charge` writes down the noise on sums that the experiment asks for, before a level is opened:
    `ValueError` where there is none. `stream` draws it, in tests. Raises what `charge` raises,
    `ConfigError` for secure sums that show single clients' counts, `SecAggAborted` where clients
    were lost before anything was agreed on, `DataError` where all rows together have not what the
    protection asks for, or some client counts wrongly.
    """
    config, clients = federation.config, federation.sharing
    agreement.refuse_open(config.secure_sum)
    if int(clients.sizes().sum()) > agreement.MOST_ROWS:
        raise DataError(f"clients have more than {agreement.MOST_ROWS:,} rows together")
    noise = config.anonymization.counts_noise_multiplier or 0.0
    if noise and charge is None:
        raise ValueError("counts_noise_multiplier: noise that no ledger knows of promises nothing")
    cut, columns = clients.start(), clients.empty()
    server = _Server(grid, nodes, config, directory, columns)
    ids: Sequence[int] = range(clients.clients)
    longest, early = 0, ""
    while cut.open:
        if noise and charge is not None:
            charge(cut.sums, Release("gaussian", noise))
        try:
            total, ids = server.level(cut, ids, is_first=not cut.sums)
        except SecAggAborted as error:
            if not cut.levels:
                raise
            cut, early = shared.closed(cut), str(error)
            break
        if noise:
            drawn = integer_gaussian(cut.deviation, len(total), stream or Stream.secret())
            total = total + drawn.numpy()
        longest = max(longest, len(total))
        cut = shared.grow(cut, total, columns)
    late = tuple(sorted(set(range(clients.clients)) - set(ids)))
    delta = config.anonymization.counts_delta or 0.0
    return Agreed(cut, config.secure_sum.name, cut.sums, longest, noise, delta, late, early)


def joined(
    carrier: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    directory: Directory,
    *,
    agreed: Agreed | None = None,
    charge: Callable[[int, Release], None] | None = None,
) -> tuple[Carrier, Federation]:
    """Return what rounds between nodes run with: clients have the cut they share, where they do.

    The federation is as its server knows it: `anonymization` has what was agreed on, to be kept
    (`fedsim.agreement.keep`) and given as `agreed` to a run that goes on. Raises what `agree` does,
    and `ConfigError` for noise where there is no ledger.
    """
    if not federation.awaits_cut:
        return carrier, federation
    noise = federation.config.anonymization.counts_noise_multiplier
    if noise and charge is None and agreed is None:
        accepted = "unset: this server has no ledger to write down what the sums tell"
        raise ConfigError([Problem("anonymization.counts_noise_multiplier", noise, accepted)])
    found = agreed or agree(carrier, nodes, federation, directory, charge=charge)
    return CutCarrier(carrier, found), federation.declared(found)


@dataclass(slots=True)
class CutCarrier:
    """A `Carrier` whose clients have the cut before they train: who lacks it is sent it.

    A client may lack it because it came late, or because it was started anew since it got it. One
    that refuses the cut is lost in every round, with its reason.
    """

    carrier: Carrier
    agreed: Agreed
    sent: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterator[Message]:
        """Send the same content to many nodes, wait, return the replies in any order."""

        def send(some: Sequence[int]) -> Iterable[Message]:
            return self.carrier.broadcast(content, some, kind, ttl=ttl, group_id=group_id)

        return self._asked(send, nodes, kind, ttl, group_id)

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterator[Message]:
        """Send each node a content of its own, wait, return the replies in any order."""
        own = dict(contents)

        def send(some: Sequence[int]) -> Iterable[Message]:
            sent = [(node, own[node]) for node in some]
            return self.carrier.scatter(sent, kind, ttl=ttl, group_id=group_id)

        return self._asked(send, list(own), kind, ttl, group_id)

    def _asked(
        self,
        send: Callable[[Sequence[int]], Iterable[Message]],
        nodes: Sequence[int],
        kind: str,
        ttl: float | None,
        group_id: str,
    ) -> Iterator[Message]:
        if kind not in _NEEDS_CUT:
            yield from send(nodes)
            return
        self._hand_out([node for node in nodes if node not in self.sent], ttl, group_id)
        lacking = []
        for reply in send(nodes):
            if _lacks(reply):
                lacking.append(reply.metadata.src_node_id)
            else:
                yield reply
        if lacking:
            self._hand_out(lacking, ttl, group_id)
            yield from map(self._explained, send(lacking))

    def _hand_out(self, nodes: Sequence[int], ttl: float | None, group_id: str) -> None:
        """Send nodes the cut, and write down who refuses it."""
        if not nodes:
            return
        content = cut_messages.cut_content(self.agreed.cut.encode())
        replies = self.carrier.broadcast(
            content, nodes, cut_messages.FROZEN, ttl=ttl, group_id=group_id
        )
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                self.refused[node] = reply.error.reason or "no reason given"
            else:
                self.sent.add(node)
                self.refused.pop(node, None)

    def _explained(self, reply: Message) -> Message:
        """Return the reply; of a client that still has no cut, why it has none."""
        if not _lacks(reply):
            return reply
        reason = self.refused.get(reply.metadata.src_node_id, "it does not keep the cut")
        error = Error(messages.LOST, f"without the cut that clients agreed on: {reason}")
        return Message(error=error, metadata=reply.metadata)


def _lacks(reply: Message) -> bool:
    return not reply.has_error() and cut_messages.is_missing(reply.content)
