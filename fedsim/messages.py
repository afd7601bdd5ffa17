"""The rounds' vocabulary in Flower messages: what the model, an update and a sum look like.

A reply to `train` carries either one client's update (float32, or the code that a transform makes
of it: uint8) or the exact sum of several (int64). Both carry one row per client, so a server adds
up replies without caring how many clients stand behind each: `fold` turns a list of replies into
fewer replies and changes no bit.

Where the sum is a secure one without masks, a reply carries the vector of `fedsim.secagg.lanes` and
who is in it: nothing else that tells clients apart.
"""

import hashlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from torch import Tensor

from fedsim import client_table, coding, exact
from fedsim.client_table import Table, understood, whole
from fedsim.coding import Code
from fedsim.core import Memo, Update
from fedsim.exact import FixedPoint, InvalidUpdateError, PartialSum

__all__ = [
    "EVALUATE",
    "FLOAT_BYTES",
    "LOST",
    "TRAIN",
    "Decode",
    "Train",
    "as_error",
    "decode_of",
    "error_reply",
    "evaluation_content",
    "fold",
    "hash_of",
    "measured",
    "memo_of",
    "model_content",
    "norms",
    "of_one",
    "partial_sums",
    "read_instruction",
    "read_ring",
    "read_statistics",
    "ring_content",
    "sent_bytes",
    "set_memo",
    "sum_content",
    "update_content",
    "updates",
]

TRAIN = "train"
EVALUATE = "evaluate"
FLOAT_BYTES = 4  # models and what is beside them travel as float32
LOST = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


#: Code -> update, where updates travel as codes.
Decode = Callable[[Code], Tensor]


@dataclass(frozen=True, slots=True)
class Train:
    """What a client is told: the global model (flat float32) and the round.

    `extras`: further float32 vectors of the strategy's, by name. `lanes`: the sizes of those that
    come back, by name; what the server knows, and does not send. `epochs`: how many a client does
    that has not the time for all of them; None: those of the experiment. `coding`: how whoever adds
    updates up decodes them (`fedsim.coding.told`); empty where they travel as they are.
    """

    model: Tensor
    round: int
    lr_factor: float = 1.0
    form: FixedPoint | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    lanes: Mapping[str, int] = field(default_factory=dict)
    epochs: int | None = None
    coding: str = ""

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the float32 numbers that go to each client."""
        return FLOAT_BYTES * (
            self.model.numel() + sum(extra.numel() for extra in self.extras.values())
        )


def model_content(order: Train) -> RecordDict:
    """Build the content of a `train` or `evaluate` message; the same object for a whole cohort.

    With `form` set, whoever carries the replies may fold them into exact sums in that format.
    """
    arrays = {"vector": Array(order.model.cpu().numpy())}
    arrays |= {f"extra/{name}": Array(v.cpu().numpy()) for name, v in order.extras.items()}
    return RecordDict(
        {
            "model": ArrayRecord(arrays),
            "config": ConfigRecord(_settings(order)),
        }
    )


def _settings(order: Train) -> dict[str, Any]:
    """Return what an order says besides the model."""
    config: dict[str, Any] = {"server-round": order.round, "lr-factor": float(order.lr_factor)}
    if order.epochs is not None:
        config["epochs"] = order.epochs
    if order.coding:
        config["coding"] = order.coding
    if (form := order.form) is not None:
        if form.dimension != order.model.numel():
            config["dimension"] = form.dimension
        config |= {
            "fraction-bits": form.fraction_bits,
            "max-abs": float(form.max_abs),
            "max-weight": float(form.max_weight),
        }
        if form.max_norm is not None:
            config |= {"max-norm": float(form.max_norm), "has-votes": form.has_votes}
        if form.bits is not None:
            config["ring-bits"] = form.bits
    return config


def read_instruction(content: RecordDict) -> Train:
    """Read what `model_content` wrote."""
    config = content.config_records["config"]
    arrays = content.array_records["model"]
    model = _tensor(arrays["vector"])
    extras = {
        name.removeprefix("extra/"): _tensor(array)
        for name, array in arrays.items()
        if name.startswith("extra/")
    }
    form = None
    if "fraction-bits" in config:
        bounds = float(config["max-abs"]), float(config["max-weight"])
        norm = float(config["max-norm"]) if "max-norm" in config else None
        has_votes = bool(config.get("has-votes", False))
        bits = int(config["ring-bits"]) if "ring-bits" in config else None
        size = int(config.get("dimension", model.numel()))
        steps = int(config["fraction-bits"])
        form = FixedPoint(steps, *bounds, size, norm, has_votes, bits)
    number, factor = int(config["server-round"]), float(config["lr-factor"])
    epochs = int(config["epochs"]) if "epochs" in config else None
    coded = str(config.get("coding", ""))
    return Train(model, number, factor, form, extras, epochs=epochs, coding=coded)


def decode_of(order: Train) -> Decode | None:
    """Return what decodes the updates that answer an order, None where there is nothing to."""
    return coding.decoder(order.coding, order.round) if order.coding else None


def hash_of(order: Train) -> bytes:
    """Return the SHA-256 of everything that an order says: clients with the same got the same."""
    vectors = [("", order.model), *sorted(order.extras.items())]
    digests = {
        name: hashlib.sha256(v.cpu().numpy().astype("<f4", copy=False).tobytes()).digest()
        for name, v in vectors
    }
    said = repr([sorted(_settings(order).items()), list(digests)]).encode()
    return hashlib.sha256(b"".join(digests.values()) + said).digest()


def update_content(
    update: Update, *, client: int, seconds: float, code: Code | None = None
) -> RecordDict:
    """Build the reply of one client to `train`; its vector as a code, where it has one."""
    own = client_table.row(client, update.weight, seconds, update.metrics)
    arrays = {"vector": Array(update.vector.cpu().numpy())} if code is None else {}
    if code is not None:
        arrays["code"] = Array(code)
    arrays |= {f"lane/{k}": Array(lane.cpu().numpy()) for k, lane in update.lanes.items()}
    return RecordDict({"update": ArrayRecord(arrays), **client_table.records(own)})


def sent_bytes(update: Update, code: Code | None = None) -> int:
    """Return the bytes of an update's numbers in the reply that `update_content` builds."""
    whole = update.vector.nbytes if code is None else code.nbytes
    return int(whole) + sum(int(lane.nbytes) for lane in update.lanes.values())


def sum_content(total: PartialSum, clients: Table) -> RecordDict:
    """Build the reply of several clients to `train`: the exact sum of their updates."""
    arrays = {"vector": Array(total.vector.numpy())}
    arrays |= {f"lane/{k}": Array(lane.numpy()) for k, lane in total.lanes.items()}
    # The weight is a Python integer of any size: text keeps it exact.
    config = ConfigRecord({"weight": str(total.weight), "count": total.count})
    return RecordDict(
        {"sum": ArrayRecord(arrays), **client_table.records(clients), "sum-config": config}
    )


def ring_content(vector: np.ndarray, clients: Sequence[int]) -> RecordDict:
    """Build the reply of clients whose vectors were added up in a ring: uint32."""
    config = ConfigRecord({"clients": [int(client) for client in clients]})
    return RecordDict({"ring": ArrayRecord({"vector": Array(vector)}), "ring-config": config})


def read_ring(content: RecordDict) -> tuple[np.ndarray, list[int]]:
    """Return what `ring_content` wrote: the sum, and whose.

    Raises `fedsim.exact.InvalidUpdateError` for anything else.
    """
    with understood("the vector"):
        vector = content.array_records["ring"]["vector"].numpy()
        clients = [whole(client) for client in content.config_records["ring-config"]["clients"]]
        if vector.dtype != np.uint32 or vector.ndim != 1 or len(set(clients)) != len(clients):
            raise InvalidUpdateError("the reply is no vector of numbers in a ring")
        if not clients:
            raise InvalidUpdateError("a reply of no client")
        return vector, clients


def evaluation_content(
    statistics: Mapping[str, Tensor], *, client: int, examples: int, seconds: float
) -> RecordDict:
    """Build the reply of one client to `evaluate`: additive statistics, float64, by metric."""
    own = client_table.row(client, float(examples), seconds, {})
    stats = {name: Array(value.double().numpy()[None]) for name, value in statistics.items()}
    return RecordDict({"statistics": ArrayRecord(stats), **client_table.records(own)})


def updates(content: RecordDict, own: Table, decode: Decode | None = None) -> Update:
    """Return the update of a reply that one client sent and nobody folded.

    `own`: the reply's table. `decode`: what the order asked for. Raises
    `fedsim.exact.InvalidUpdateError` for what `update_content` does not write.
    """
    with understood("the update"):
        (weight,), (metrics,) = own.weights, own.metrics
        arrays = content.array_records["update"]
        key = "code" if decode else "vector"
        lanes = {k.removeprefix("lane/"): _tensor(v) for k, v in arrays.items() if k != key}
        vector = decode(arrays[key].numpy()) if decode else _tensor(arrays[key])
        return Update(vector, weight, metrics, lanes)


def partial_sums(
    content: RecordDict, clients: Table, form: FixedPoint, decode: Decode | None = None
) -> PartialSum:
    """Return a reply to `train` as an exact partial sum, of one client or of many.

    `clients`: the reply's table. Raises `fedsim.exact.InvalidUpdateError` for an update that must
    not enter the sum, and for a sum that no updates that may can have.
    """
    if "update" in content.array_records:
        update = updates(content, clients, decode)
        with understood("the update"):
            return exact.encode(update, form)
    with understood("the sum"):
        arrays = content.array_records["sum"]
        lanes = {k.removeprefix("lane/"): _tensor(v) for k, v in arrays.items() if k != "vector"}
        config = content.config_records["sum-config"]
        weight, count = int(str(config["weight"])), int(config["count"])
        total = PartialSum(_tensor(arrays["vector"]), weight, count, lanes)
        exact.check_sum(total, clients.weights, form)
    return total


def norms(content: RecordDict, clients: Table) -> dict[int, float]:
    """Return, by client, the L2 norm of what a reply that was read adds to the sum.

    `clients`: its table. NaN where whoever added up did not say. Nobody is asked for its own norm.
    """
    if "update" in content.array_records:
        return {clients.clients[0]: exact.norm_of(updates(content, clients))}
    return dict(zip(clients.clients, clients.norms, strict=True))


def measured(content: RecordDict, clients: Table) -> Table:
    """Return the table of a reply to `train` with the bytes of what each client sent.

    Of a single update they are counted here, whatever its sender says.
    """
    if "update" not in content.array_records:
        return clients
    size = float(sum(array.numpy().nbytes for array in content.array_records["update"].values()))
    return replace(clients, sent=[size])


def of_one(reply: Message) -> Message:
    """Return a reply of a client's own machine; an error instead of one that answers for several.

    Only a run's own workers add clients up: in a node's sum nobody could tell who is in it, nor
    what each of them added.
    """
    if reply.has_error():
        return reply
    arrays, config = reply.content.array_records, reply.content.config_records
    clients = 1
    with suppress(Exception):  # what cannot be read is refused where it is read
        if "clients" in arrays:
            clients = len(arrays["clients"]["values"].numpy())
        elif "ring-config" in config:
            clients = len(config["ring-config"]["clients"])
    if clients == 1 and "sum" not in arrays:
        return reply
    return as_error(reply, InvalidUpdateError("a node answers for itself alone, not for a sum"))


def read_statistics(content: RecordDict) -> dict[str, Tensor]:
    """Return the statistics of a reply to `evaluate`: float64 [clients, k] by metric.

    Raises `fedsim.exact.InvalidUpdateError` for what `evaluation_content` does not write.
    """
    with understood("the statistics"):
        found = content.array_records["statistics"].items()
        read = {k: _tensor(v) for k, v in found}
        if any(v.dtype != torch.float64 or v.dim() < 1 for v in read.values()):
            raise InvalidUpdateError("the statistics are not float64, a row for each client")
        return read


def fold(instruction: RecordDict, replies: Sequence[Message]) -> list[Message]:
    """Merge the replies of several clients: one sum or one table, plus an error per lost client.

    `instruction` is the content all of them answered. Replies it cannot merge are returned as they
    are. Errors keep their own messages, so that who was lost, and why, stays visible.
    """
    lost = [reply for reply in replies if reply.has_error()]
    answered = [reply for reply in replies if not reply.has_error()]
    merge: Callable[[RecordDict, Sequence[Message]], list[Message]]
    if _all_have("statistics", answered):
        merge = _fold_statistics
    elif _all_have("ring", answered):
        merge = _fold_ring
    elif answered and _is_folding(instruction):
        merge = _fold_updates
    else:
        return list(replies)
    return merge(instruction, answered) + lost


def error_reply(message: Message, error: BaseException) -> Message:
    """Report a client that raised: its full traceback goes back as the reason."""
    text = "".join(traceback.format_exception(error))
    return Message(error=Error(LOST, text), reply_to=message)


def memo_of(state: RecordDict) -> Memo:
    """Return what a client remembers, from its Flower `Context.state`."""
    record = state.array_records.get("memo")
    return {} if record is None else {name: _tensor(array) for name, array in record.items()}


def set_memo(state: RecordDict, memo: Memo) -> None:
    """Keep what a client remembers in its Flower `Context.state`."""
    if memo:
        state["memo"] = ArrayRecord({k: Array(v.cpu().numpy()) for k, v in memo.items()})
    elif "memo" in state:
        del state["memo"]


def _fold_updates(instruction: RecordDict, replies: Sequence[Message]) -> list[Message]:
    order = read_instruction(instruction)
    form, decode = order.form, decode_of(order)
    assert form is not None
    total: PartialSum | None = None
    tables, lost, last = [], [], replies[-1]
    for reply in replies:
        try:
            own = client_table.read(reply.content)
            added = partial_sums(reply.content, own, form, decode)  # refuses what is no update
            own, total = measured(reply.content, own), exact.add_into(total, added)
            if form.max_norm is not None:
                found = norms(reply.content, own)
                own = replace(own, norms=[found[client] for client in own.clients])
        except InvalidUpdateError as error:
            lost.append(as_error(reply, error))
        else:
            tables.append(own)
    if total is None:
        return lost
    last.content = sum_content(total, client_table.joined(tables))
    return [last, *lost]


def _all_have(record: str, answered: Sequence[Message]) -> bool:
    return bool(answered) and all(record in reply.content.array_records for reply in answered)


def _is_folding(instruction: RecordDict) -> bool:
    config = instruction.config_records.get("config", {})
    return "fraction-bits" in config and "ring-bits" not in config


def _fold_ring(_: RecordDict, replies: Sequence[Message]) -> list[Message]:
    parts = [read_ring(reply.content) for reply in replies]
    total = parts[0][0].copy()
    for vector, _ in parts[1:]:
        total += vector
    clients = [client for _, own in parts for client in own]
    replies[-1].content = ring_content(total, clients)
    return [replies[-1]]


def _fold_statistics(_: RecordDict, replies: Sequence[Message]) -> list[Message]:
    parts = [read_statistics(reply.content) for reply in replies]
    clients = client_table.joined(client_table.read(reply.content) for reply in replies)
    merged = {k: Array(torch.cat([part[k] for part in parts]).numpy()) for k in parts[0]}
    replies[-1].content = RecordDict(
        {"statistics": ArrayRecord(merged), **client_table.records(clients)}
    )
    return [replies[-1]]


def as_error(reply: Message, error: InvalidUpdateError) -> Message:
    """Return what rounds are told in place of a reply that must not count."""
    metadata = reply.metadata
    return Message(error=Error(LOST, f"{type(error).__name__}: {error}"), metadata=metadata)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array.numpy()))
