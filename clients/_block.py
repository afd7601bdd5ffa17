"""A block of clients answered as one: the fast side of `app.py`, and nothing else than it.

`answer` trains the clients of a block on the resident model, one after another or all at once, and
adds their updates up as it goes. What it cannot do, or what goes wrong on the way, it leaves to the
per-client handlers of `app.py` by returning None: those also find out which client it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from time import perf_counter
from typing import Any

import numpy as np
import torch
from flwr.app import Message, RecordDict
from flwr.app.metadata import Metadata
from numpy.typing import NDArray
from torch import Tensor

from fedsim import (
    ckks_messages,
    client_table,
    coding,
    environment,
    exact,
    messages,
    ring,
    secure_messages,
    sending,
)
from fedsim.client_table import Table
from fedsim.clients import _ckks
from fedsim.clients._quiet import LostClientError, quiet
from fedsim.clients._secure_sum import Asked, session_of
from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext, Memo, Update
from fedsim.data import gather, sizes_of
from fedsim.exact import InvalidUpdateError, PartialSum
from fedsim.federation import Federation, doing, from_text
from fedsim.privacy import central
from fedsim.sending import Sent
from fedsim.tiers import LOW_RANK, MESSAGES, RESIDENT, fit_of
from fedsim.vectorized.block import Trained, train_block
from fedsim.vectorized.change import Changes, encoded
from fedsim.vectorized.schedule import first_pass

__all__ = ["answer"]

_KINDS = (messages.TRAIN, secure_messages.MASKED, ckks_messages.ENCRYPTED)

#: limit(clients) -> what raises when so many clients take longer than they may.
Limit = Callable[[int], AbstractContextManager[None]]


@dataclass(slots=True)
class _Block:
    """A block in work: who is asked what, and what has come of it so far."""

    federation: Federation
    order: messages.Train
    metadata: Callable[[int], dict[str, Any]]
    clients: Sequence[int]
    memos: list[Memo]
    limit: Limit
    seed: int
    asked: Callable[[int], Asked] | None = None
    encrypted: Callable[[int, NDArray[np.uint32]], RecordDict] | None = None
    order_hash: bytes = b""
    total: PartialSum | None = None
    ring_total: NDArray[np.uint32] | None = None
    in_ring: list[int] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)
    kept: dict[int, Memo] = field(default_factory=dict)
    sessions: dict[int, bytes] = field(default_factory=dict)
    last: int = 0

    def context(self, place: int) -> ClientContext:
        order = self.order
        return ClientContext(self.seed, order.round, self.clients[place], order.lr_factor)

    def instruction(self, place: int) -> Message:
        return Message(content=RecordDict(), metadata=Metadata(**self.metadata(place)))

    @property
    def is_secure(self) -> bool:
        return ring.is_secure(self.federation.config)

    def lose(self, place: int, error: BaseException) -> None:
        self.replies.append(messages.error_reply(self.instruction(place), error))

    def sent(self, place: int, update: Update) -> Sent:
        """Return what a client sends of what it trained."""
        _, kept = coding.apart(self.memos[place])
        return sending.send(self.federation, update, self.order, self.context(place), kept)

    def count(self, place: int, sent: Sent, memo: Memo, seconds: float) -> None:
        """Take a client's update into the sum, or as a reply of its own."""
        update, code = sent.update, sent.code
        if self.order.form is None:
            client = self.clients[place]
            content = messages.update_content(update, client=client, seconds=seconds, code=code)
            self.replies.append(Message(content, reply_to=self.instruction(place)))
        elif self.order.form.bits is not None:
            self.count_in_ring(place, update)
        else:
            self.total = exact.accumulate(self.total, update, self.order.form)
            norm = math.nan if self.order.form.max_norm is None else exact.norm_of(update)
            size, client = float(messages.sent_bytes(update, code)), self.clients[place]
            own = client_table.row(client, update.weight, seconds, update.metrics, norm, size)
            self.tables.append(own)
            self.last = place
        self.kept[place] = coding.joined(memo, sent.kept)

    def count_in_ring(self, place: int, update: Update) -> None:
        """Take a client's vector into the sum, or, masked or encrypted, as a reply of its own."""
        assert self.order.form is not None
        layout = ring.layout(self.federation, self.order.form)
        vector = ring.vector(self.federation, update, layout, self.context(place))
        if self.asked is not None:
            own = self.asked(place)
            kept, content = own.answer(vector, self.order_hash)
            self.sessions[place] = kept
            self.replies.append(Message(content, reply_to=self.instruction(place)))
            return
        if self.encrypted is not None:
            content = self.encrypted(place, vector)
            self.replies.append(Message(content, reply_to=self.instruction(place)))
            return
        if self.ring_total is None:
            self.ring_total = np.zeros_like(vector)
        self.ring_total += vector
        self.in_ring.append(self.clients[place])
        self.last = place

    def finished(self) -> list[Message]:
        if self.ring_total is not None:
            content = messages.ring_content(self.ring_total, self.in_ring)
        elif self.total is not None:
            content = messages.sum_content(self.total, client_table.joined(self.tables))
        else:
            return self.replies
        return [Message(content, reply_to=self.instruction(self.last)), *self.replies]


def answer(
    content: RecordDict,
    own: Callable[[int], Mapping[str, Any]],
    metadata: Callable[[int], dict[str, Any]],
    clients: Sequence[int],
    states: Sequence[RecordDict | None],
    run_config: Mapping[str, Any],
    limit: Limit,
) -> tuple[list[Message], dict[int, RecordDict]] | None:
    """Train clients that got the same content; None where each has to be asked by itself.

    `own(place)`: the records that one client alone got. Returns the replies, one for all whose
    updates were added up, and by place in `clients` the new states of those that keep something.
    """
    tier, kind = str(run_config.get("tier", MESSAGES)), metadata(0)["message_type"]
    if tier == MESSAGES or kind not in _KINDS:
        return None
    federation = from_text(str(run_config["experiment"]))
    if kind != _kind(federation.config) or federation.awaits_cut:
        return None  # each client refuses
    order = messages.read_instruction(content)
    federation = doing(federation, order.epochs)

    def asked(place: int) -> Asked:
        message = secure_messages.read_ask(RecordDict({**own(place)}))
        before = states[place] or RecordDict()
        session = session_of(federation, run_config, {}, clients[place])
        return Asked(session, secure_messages.session_of(before), message)

    def encrypted(place: int, vector: NDArray[np.uint32]) -> RecordDict:
        key = _ckks.key_of(federation.config, run_config, {}, clients[place])
        return _ckks.encrypted(federation.config, key, vector)

    block = _Block(
        federation,
        replace(order, model=order.model.to(federation.device)),  # once for all clients
        metadata,
        clients,
        [{} if state is None else messages.memo_of(state) for state in states],
        limit,
        federation.client_seed(),
        asked if kind == secure_messages.MASKED else None,
        encrypted if kind == ckks_messages.ENCRYPTED else None,
        messages.hash_of(order) if kind == secure_messages.MASKED else b"",  # once for all clients
    )
    with quiet(block.is_secure):
        if tier == RESIDENT:
            _one_by_one(block, range(len(clients)))
        else:
            size = int(run_config.get("at-once", 0)) or len(clients)
            for start in range(0, len(clients), size):
                _at_once(block, tier, range(start, min(start + size, len(clients))))
    return block.finished(), _states(block, states)


def _kind(config: RunConfig) -> str:
    """Return which message asks for updates; a client refuses others."""
    if ring.is_masked(config):
        return secure_messages.MASKED
    return ckks_messages.ENCRYPTED if ring.is_encrypted(config) else messages.TRAIN


def _one_by_one(block: _Block, places: Sequence[int]) -> None:
    for place in places:
        error = _alone(block, place)
        if error is not None and environment.is_out_of_memory(error):
            error = None  # it holds what the client had allocated
            environment.free_gpu_memory()  # another worker may have had the rest, for a moment
            error = _alone(block, place)
        if error is not None:
            block.lose(place, error)


def _alone(block: _Block, place: int) -> Exception | None:
    """Train one client and count its update; returns what went wrong."""
    federation, local = block.federation, block.federation.config.local
    started = perf_counter()
    try:
        with quiet(block.is_secure):
            with block.limit(1):  # not of what follows: a sum must not be left half added
                shard = federation.clients.train(block.clients[place])
                order, number = block.order, block.order.round
                task = federation.task(order.model, [shard], extras=order.extras, round=number)
                own, _ = coding.apart(block.memos[place])
                update, memo = local.train(task, own, block.context(place))
                sent = block.sent(place, update)
            block.count(place, sent, memo, perf_counter() - started)
    except Exception as error:
        return error
    return None


def _at_once(block: _Block, tier: str, places: Sequence[int]) -> None:
    recipe = block.federation.config.local.recipe
    started = perf_counter()
    clients, own = block.federation.clients, [block.clients[place] for place in places]
    sizes, contexts = sizes_of(clients, own), [block.context(place) for place in places]
    is_ordered = recipe.clipping is None  # Poisson batches have no passes
    shards = gather(clients, own, first_pass(sizes, contexts) if is_ordered else None)
    is_stored, number = tier == LOW_RANK, block.order.round
    task = block.federation.task(block.order.model, [shards], as_stored=is_stored, round=number)
    memos = [coding.apart(block.memos[place])[0] for place in places]
    with block.limit(len(sizes)):
        fit = fit_of(tier, block.federation)
        parts = train_block(fit, task, recipe, sizes, memos, contexts, is_ordered=is_ordered)
        for trained in parts:
            seconds = (perf_counter() - started) / len(trained.members)
            members = [places[i] for i in trained.members]
            counts = [sizes[i] for i in trained.members]
            own_contexts = [contexts[i] for i in trained.members]
            trained = replace(trained, members=members)
            _count_group(block, trained, counts, own_contexts, seconds)
            started = perf_counter()


def _count_group(
    block: _Block,
    trained: Trained,
    sizes: Sequence[int],
    contexts: Sequence[ClientContext],
    seconds: float,
) -> None:
    """Take a group's updates into the sum; what is out of bounds is looked at one by one."""
    form = block.order.form
    metrics = trained.metrics([float(size) for size in sizes])
    weights = [block.federation.weight(float(size)) for size in sizes]
    is_dense = coding.kind_of(block.federation.config.transform) == "dense"
    is_summed = form is not None and form.bits is None
    if not (is_dense or (is_summed and sending.can_together(block.federation))):
        _take_each(block, trained, sizes, metrics, seconds)
        return
    if not is_summed:
        change = encoded(trained.change, block.federation.transform(form, contexts))
        _count_each(block, trained, change, weights, metrics, seconds)
        return
    assert form is not None
    before = [coding.apart(block.memos[place])[1] for place in trained.members]
    sent = sending.together(block.federation, trained.change, block.order, contexts, before)
    change = sent.changes
    is_good = ((change.largest() <= form.max_abs) & sent.is_finite).cpu()  # False for NaN too
    norms = [math.nan] * len(weights)
    if form.max_norm is not None:
        found = change.norms().cpu()
        is_good &= found <= form.max_norm
        norms = (found.double() * torch.tensor(weights, dtype=torch.float64)).tolist()
    fine = is_good.tolist()
    if any(fine):
        counted = torch.where(is_good, torch.tensor(weights), 0.0)
        vector = change.weighted_sum(counted.to(trained.losses.device))
        lanes = central.votes(lambda: sent.whole.norms().cpu()[is_good], form)
        part = exact.encode_sum(vector, list(compress(weights, fine)), form, lanes)
        block.total = exact.add_into(block.total, part)
        more = sum(lane.nbytes for lane in lanes.values())
        ids = [block.clients[place] for place in trained.members]
        sizes_up = [float(size + more) for size in sent.sizes]
        own = Table(ids, weights, [seconds] * len(ids), metrics, norms, sizes_up)
        block.tables.append(client_table.chosen(own, fine))
        memos = map(coding.joined, trained.memos, sent.kept)
        block.kept.update(compress(zip(trained.members, memos, strict=True), fine))
        *_, block.last = compress(trained.members, fine)
    _one_by_one(block, [place for place, own in zip(trained.members, fine, strict=True) if not own])


def _take_each(
    block: _Block,
    trained: Trained,
    sizes: Sequence[int],
    metrics: Sequence[Mapping[str, float]],
    seconds: float,
) -> None:
    """Encode a group's updates one by one, and count them."""
    for i, vector in enumerate(trained.change.vectors().cpu()):
        place = trained.members[i]
        update = Update(vector, float(sizes[i]), metrics[i])
        try:
            with quiet(block.is_secure):
                block.count(place, block.sent(place, update), trained.memos[i], seconds)
        except (LostClientError, InvalidUpdateError) as error:
            block.lose(place, error)


def _count_each(
    block: _Block,
    trained: Trained,
    change: Changes,
    weights: Sequence[float],
    metrics: Sequence[Mapping[str, float]],
    seconds: float,
) -> None:
    """Count a group's updates one by one, where each is a reply or is rounded by its own chance."""
    norms = trained.change.norms().cpu() if block.order.form else None
    for i, vector in enumerate(change.vectors().cpu()):
        place = trained.members[i]
        own = central.votes(partial(_one_of, norms, i), block.order.form)
        update = Update(vector, weights[i], metrics[i], own)
        try:
            with quiet(block.is_secure):
                block.count(place, Sent(update, None, {}), trained.memos[i], seconds)
        except LostClientError as error:
            block.lose(place, error)


def _one_of(norms: Tensor | None, i: int) -> Tensor:
    assert norms is not None
    return norms[i : i + 1]


def _states(block: _Block, before: Sequence[RecordDict | None]) -> dict[int, RecordDict]:
    states = {}
    for place, memo in block.kept.items():
        if memo or before[place] is not None:
            state = before[place] or RecordDict()
            messages.set_memo(state, memo)
            if place in block.sessions:
                secure_messages.set_session(state, block.sessions[place])
            states[place] = state
    return states
