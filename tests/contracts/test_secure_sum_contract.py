"""What every secure sum keeps to in a round: the exact sum of who is in it, or none at all."""

import functools
import typing

import numpy as np
import pytest
import torch

from fedsim import config as configuration
from fedsim import exact, messages, ring, secure_messages, secure_rounds
from fedsim.clients import _ckks
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.config.schema import SecureSum
from fedsim.core import ClientContext
from fedsim.engine.blocks import Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import SecAggAborted
from fedsim.federation import Places, from_text, to_text
from fedsim.rounds import number_format
from fedsim.sampling import PHASES
from fedsim.secagg import ckks

CLIENTS = 7
NAMES = [n for n in typing.get_args(typing.get_type_hints(SecureSum)["name"]) if n != "plain"]
MASKED = ["secagg", "secagg+"]
CKKS_KEY = functools.cache(lambda: ckks.new_key().hex())
KIND = secure_messages.KINDS


class Unreliable:
    """A carrier that loses replies, sends them twice and out of order, or changes one."""

    def __init__(self, grid, lost=(), spoil=None, is_shuffled=False):
        self.grid, self.lost, self.spoil, self.is_shuffled = grid, dict(lost), spoil, is_shuffled

    def broadcast(self, content, nodes, kind, **options):
        present = [node for node in nodes if node - 1 not in self.lost]
        return self._delivered(self.grid.broadcast(content, present, kind, **options), kind)

    def scatter(self, contents, kind, **options):
        return self._delivered(self.grid.scatter(contents, kind, **options), kind)

    def _delivered(self, replies, kind):
        kept = [r for r in replies if KIND.get(self.lost.get(r.metadata.src_node_id - 1)) != kind]
        if self.spoil:
            for reply in kept:
                self.spoil(reply, kind)
        return kept[::-1] + kept if self.is_shuffled else kept


def federation_of(name, **own):
    if name == "ckks":
        own = {"adversaries": 0, **own}
    content = {
        "name": "contract",
        "seed": 3,
        "data": {"name": "digits"},
        "partition": {"name": "iid", "clients": CLIENTS},
        "model": {"name": "linear"},
        "local": {"name": "sgd", "steps": 2},
        "evaluation": {"federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident", "block_size": 3},
        "secure_sum": {"name": name, "threshold": 0.51, **own},
    }
    text = to_text(configuration.load(content), Places())
    return text, from_text(text)


def collected(name, *, clients=range(CLIENTS), own=None, **faults):
    """Run one round's secure sum; return what came out, the order and the grid."""
    text, federation = federation_of(name, **(own or {}))
    told = {"experiment": text, "tier": "resident", SECRET: "ab" * 32}
    if name == "ckks":
        told[_ckks.KEY] = CKKS_KEY()
    grid = InProcessGrid(OURS.open(told), Population(CLIENTS, told), size=3)
    order = messages.Train(federation.initial, 1, form=number_format(federation))
    directory = simulated_directory(told, federation.config)
    carrier = Unreliable(grid, **faults)
    nodes = range(1, CLIENTS + 1)
    found = secure_rounds.collect(carrier, nodes, federation, order, list(clients), {}, directory)
    return found, grid


def by_hand(name, clients, own=None):
    """The exact sum of some clients' rounded updates, and the mean of their losses."""
    _, federation = federation_of(name, **(own or {}))
    form, parts, losses = number_format(federation), [], []
    for client in clients:
        ctx = ClientContext(federation.config.seed, 1, client)
        task = federation.task(federation.initial, [federation.clients.train(client)])
        update, _ = federation.config.local.train(task, {}, ctx)
        parts.append(exact.encode_in_ring(update, form, ctx.rng("rounding")))
        losses.append((update.weight, update.metrics["loss"]))
    weight = sum(w for w, _ in losses)
    return exact.add(parts), sum(w * loss for w, loss in losses) / weight


def assert_sum_of(found, clients, name, own=None):
    total, loss = by_hand(name, clients, own)
    assert torch.equal(found.total.vector, total.vector)
    assert (found.total.weight, found.total.count) == (total.weight, len(clients))
    assert found.metrics["loss"] == pytest.approx(loss, abs=2.0**-19)
    assert sorted(c for c, record in found.records.items() if not record.lost) == list(clients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [12, 20, 32])
def test_the_sum_is_exact(name, bits):
    found, _ = collected(name, own={"bits": bits})
    assert_sum_of(found, range(CLIENTS), name, {"bits": bits})


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("phase", PHASES)
def test_clients_lost_in_any_phase(name, phase):
    """Lost before the sum: not in it. Lost later: in it, though they open nothing."""
    found, _ = collected(name, lost={1: phase, 4: phase, 6: phase})
    left = [0, 2, 3, 5] if PHASES.index(phase) < 3 else range(CLIENTS)
    assert_sum_of(found, left, name)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("phase", PHASES)
def test_too_few_left_in_any_phase_open_nothing(name, phase):
    """Four of seven are needed, of the four that are left after `keys` three."""
    with pytest.raises(SecAggAborted) as aborted:
        collected(name, lost=dict.fromkeys(range(5), phase))
    assert (aborted.value.survivors, aborted.value.threshold) == (2, 3 if phase == "keys" else 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_cohort_below_the_minimum_is_not_summed(name):
    with pytest.raises(SecAggAborted):
        collected(name, clients=[0, 1], own={"min_cohort": 3})


@pytest.mark.parametrize("name", MASKED)
def test_replies_twice_and_out_of_order_change_nothing(name):
    found, _ = collected(name, is_shuffled=True)
    assert_sum_of(found, range(CLIENTS), name)


@pytest.mark.parametrize("name", ["ideal", *MASKED])
def test_a_vector_that_is_none_is_noticed(name):
    """One reply is noise of the right shape: the count is wrong, or a number out of range."""

    def spoil(reply, kind):
        if reply.metadata.src_node_id != 3 or kind not in ("train", KIND["masked"]):
            return
        record = "ring" if kind == "train" else "masked"
        vector = reply.content[record]["vector"].numpy()
        noise = np.random.default_rng(0).integers(
            0, np.iinfo(vector.dtype).max, vector.shape, dtype=vector.dtype
        )
        reply.content[record] = messages.ArrayRecord({"vector": messages.Array(noise)})

    with pytest.raises(SecAggAborted) as aborted:
        collected(name, spoil=spoil)
    assert aborted.value.reason.split(":")[0] in ("count", "range", "weight", "metrics")


@pytest.mark.parametrize("name", MASKED)
def test_nonsense_from_a_client_loses_that_client_alone(name):
    def spoil(reply, kind):
        if reply.metadata.src_node_id == 3 and kind == KIND["shares"]:
            reply.content = secure_messages.reply_content(b"nonsense")
        if reply.metadata.src_node_id == 5 and kind == KIND["masked"]:
            reply.content = messages.RecordDict()

    found, _ = collected(name, spoil=spoil)
    assert_sum_of(found, [0, 1, 3, 5, 6], name)
    assert found.records[2].lost
    assert found.records[4].lost


@pytest.mark.parametrize("name", MASKED)
def test_no_client_answers_in_the_clear_or_opens_a_sum_twice(name):
    found, grid = collected(name)
    assert found.total.count == CLIENTS
    _, federation = federation_of(name)
    order = messages.Train(federation.initial, 1, form=number_format(federation))
    content = messages.model_content(order)
    for kind in (messages.TRAIN, messages.EVALUATE):
        replies = [*grid.broadcast(content, grid.population.nodes, kind, ttl=None, group_id="1")]
        assert len(replies) == CLIENTS
        assert all(reply.has_error() for reply in replies)
    # The last messages once more: their sessions are closed, and their secrets gone.
    again = secure_messages.ask_content(b"\x81\xa4kind\xa9AskUnmask")
    replies = grid.broadcast(again, grid.population.nodes, KIND["unmask"], ttl=None, group_id="1")
    said = [secure_messages.read_answer(reply.content)[0] for reply in replies]
    assert all(b"Aborted" in message for message in said)


def test_what_a_client_hands_over_does_not_depend_on_the_name():
    vectors = []
    for name in NAMES:
        _, federation = federation_of(name)
        form = number_format(federation)
        ctx = ClientContext(3, 1, 0)
        task = federation.task(federation.initial, [federation.clients.train(0)])
        update, _ = federation.config.local.train(task, {}, ctx)
        vectors.append(ring.vector(federation, update, ring.layout(federation, form), ctx))
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
