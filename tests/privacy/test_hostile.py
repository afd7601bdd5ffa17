"""What clients may send: nothing moves a private sum by more than the clipping norm, or ends a run.

A reply that is not what it should be is a lost client, with the reason; the noise is the same,
whoever is lost.
"""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.metadata import Metadata
from scipy import stats

from fedsim import answers as answers_of
from fedsim import config as configuration
from fedsim import exact, messages, rounds
from fedsim.client_table import read
from fedsim.core import Update
from fedsim.errors import RunFailedError
from fedsim.exact import InvalidUpdateError, PartialSum
from fedsim.federation import build
from fedsim.privacy import central
from fedsim.privacy.noise import Stream

D, CLIPPING_NORM, COHORT = 8, 0.5, 40
FORM = central.number_format(D, clipping_norm=CLIPPING_NORM, noise_multiplier=2.0, most=COHORT)
STEP = 2.0**-FORM.fraction_bits
#: What rounding to steps adds to a norm; `fedsim.privacy.noise.integer_scale` has it in its noise.
LARGEST = CLIPPING_NORM + 0.5 * math.sqrt(D) * STEP


def message(node, *, content=None, error=None):
    metadata = Metadata(
        run_id=1, message_id=f"m{node}", src_node_id=node, dst_node_id=1, reply_to_message_id="",
        group_id="1", created_at=0.0, ttl=1.0, message_type="train",
    )  # fmt: skip
    if error is not None:
        return Message(error=Error(messages.LOST, error), metadata=metadata)
    return Message(content=content, metadata=metadata)


def table(values, names=()):
    values = values if isinstance(values, Array) else Array(np.asarray(values, dtype=np.float64))
    return {
        "clients": ArrayRecord({"values": values}),
        "metrics": ConfigRecord({"names": list(names)}),
    }


def content(client, vector, *, weight=1.0, rows=None, more=None):
    """A reply as `update_content` builds it, with whatever is in it."""
    vector = vector if isinstance(vector, Array) else Array(np.asarray(vector))
    arrays = {"vector": vector, **{k: Array(np.asarray(v)) for k, v in (more or {}).items()}}
    rows = table([[client, weight, 0.1]]) if rows is None else rows
    return RecordDict({"update": ArrayRecord(arrays), **rows})


def summed(client, vector, *, weight="1048576", count=1, rows=None, more=None):
    """A reply as a block of clients gives it, from one."""
    arrays = {"vector": Array(np.asarray(vector))}
    arrays |= {k: Array(np.asarray(v)) for k, v in (more or {}).items()}
    rows = table([[client, 1.0, 0.1]]) if rows is None else rows
    config = ConfigRecord({"weight": weight, "count": count})
    return RecordDict({"sum": ArrayRecord(arrays), **rows, "sum-config": config})


def unit(rng, norm=1.0, size=D):
    v = rng.standard_normal(size)
    return (v / np.linalg.norm(v) * norm).astype(np.float32)


def poisoned(rng, value, dtype=np.float32):
    v = unit(rng, CLIPPING_NORM).astype(dtype)
    v[rng.integers(D, size=rng.integers(1, D))] = value
    return v


BAD_NUMBERS = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 1e4)
BAD_WEIGHTS = (-1.0, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e9, 1e308, 2.0, 1 + 1e-12)
BAD_SHAPES = ((D + 1,), (D, 1), (1, D), (0,), (), (D - 1,), (2, 2, 2))
BAD_TYPES = ("i1", "i4", "i8", "u1", "?", "c8", "c16", "U3", ">f4", "g", "M8[s]")
JUNK = Array(dtype="float32", shape=(D,), stype="numpy.ndarray", data=b"\x93NUMPY junk")
FOREIGN = Array(dtype="float32", shape=(D,), stype="pickle", data=b"\x80\x04")
LOW = np.iinfo(np.int64).min
GOOD = np.zeros(D, np.float32)
ROOM = int(CLIPPING_NORM / STEP)  # the whole of the norm in one coordinate
STEPS = np.array([ROOM, *[0] * (D - 1)])


def vectors(client, rng):
    """Updates whose numbers are wrong."""
    pick = rng.integers
    yield content(client, poisoned(rng, BAD_NUMBERS[pick(len(BAD_NUMBERS))]))
    yield content(client, poisoned(rng, rng.choice([1e300, math.nan, math.inf]), np.float64))
    yield content(client, poisoned(rng, 6e4, np.float16))
    yield content(client, unit(rng, CLIPPING_NORM * 10 ** rng.uniform(1e-6, 30)))
    yield content(client, unit(rng, CLIPPING_NORM * (1 + 1e-6)))
    yield content(client, np.full(BAD_SHAPES[pick(len(BAD_SHAPES))], 0.01, np.float32))
    kind = BAD_TYPES[pick(len(BAD_TYPES))]
    yield content(client, np.ones(D).astype(kind))
    yield content(client, np.full(D, LOW))
    yield content(client, JUNK if pick(2) else FOREIGN)


def tables(client, rng):
    """Updates whose weights, rows or further arrays are wrong."""
    pick, v = rng.integers, unit(rng, CLIPPING_NORM / 2)
    yield content(client, v, weight=BAD_WEIGHTS[pick(len(BAD_WEIGHTS))])
    yield content(client, v, more={"lane/c": rng.standard_normal(D) * 1e6})
    yield content(client, v, more={"another": np.full(3, math.nan)})
    for rows in (
        table([[client, 1.0, 0.1], [client, 1.0, 0.1]]),
        table([[(client + 1) % COHORT, 1.0, 0.1]]),
        table([[10**6, 1.0, 0.1]]),
        table([[math.nan, 1.0, 0.1]]),
        table([[math.inf, 1.0, 0.1]]),
        table([[client + 0.5, 1.0, 0.1]]),
        table([[client, 1.0, 0.1, 3.0]]),
        table([[client, 1.0]]),
        table(np.zeros((0, 3))),
        table(1.0),
        table([client, 1.0, 0.1]),
        table(JUNK),
        {},
        {"clients": table([[client, 1.0, 0.1]])["clients"]},
    ):
        yield content(client, v, rows=rows)
    yield RecordDict({"update": ArrayRecord({"other": Array(v)}), **table([[client, 1.0, 0.1]])})
    yield RecordDict({})
    yield RecordDict({"update": ConfigRecord({"vector": 1}), **table([[client, 1.0, 0.1]])})


def sums(client, rng):
    """Sums that no updates have."""
    two = table([[client, 1.0, 0.1], [10**6, 1.0, 0.1]])
    yield summed(client, np.full(D, LOW))
    yield summed(client, np.full(D, 2**62))
    yield summed(client, STEPS * 3)
    yield summed(client, rng.integers(-(2**62), 2**62, D))
    yield summed(client, STEPS.astype(np.float64))
    yield summed(client, STEPS, count=1000)
    yield summed(client, STEPS * 1000, count=1000, weight=str(1000 * 2**20))
    yield summed(client, STEPS * 2, count=2, weight=str(2 * 2**20), rows=two)
    yield summed(client, STEPS, weight=str(10**30))
    yield summed(client, STEPS, weight="-1048576")
    yield summed(client, STEPS, weight="much")
    yield summed(client, STEPS, count=0, weight="0", rows=table(np.zeros((0, 3))))
    yield summed(client, STEPS[:-1])
    yield summed(client, STEPS, more={"lane/c": np.full(3, LOW)})
    yield summed(client, STEPS, rows=table([[client, math.nan, 0.1]]))


def fine(client, rng):
    """What may be sent, however odd: it counts."""
    yield content(client, np.zeros(D, np.float32))
    yield content(client, np.full(D, 1e-45, np.float32))
    yield content(client, unit(rng, CLIPPING_NORM * 0.999), weight=1e-300)
    yield content(client, unit(rng, CLIPPING_NORM * (1 - 2**-10)))
    yield content(client, unit(rng, CLIPPING_NORM * 0.99).astype(np.float64))
    yield content(client, unit(rng, CLIPPING_NORM / 2).astype(np.float16))
    yield summed(client, STEPS)
    extreme = [[client, 1.0, math.nan, *rng.choice([math.inf, -math.inf, 1e308, math.nan], 2)]]
    yield content(client, GOOD, rows=table(extreme, ["loss", "loss/of \n everything"]))


KINDS = (vectors, tables, sums, fine)


def hostile(client, rng):
    """Yield replies of all kinds in random order, without end, and whether each may count."""
    while True:
        made = [(reply, kind is fine) for kind in KINDS for reply in kind(client, rng)]
        for i in rng.permutation(len(made)):
            yield made[i]


class Answering:
    """A carrier whose clients answer what `reply(client, round)` returns."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def broadcast(self, content, nodes, kind, *, ttl, group_id):
        self.asked.append(list(nodes))
        replies = (self.reply(node - 1, int(group_id)) for node in nodes)
        return [reply for reply in replies if reply is not None]


def sent(carrier, ids, form=FORM):
    """Have clients train through the server's path."""
    order = messages.Train(torch.zeros(D), 1, form=form)
    nodes = [client + 1 for client in range(max(ids, default=0) + 1)]
    return answers_of.send(carrier, nodes, ids, messages.TRAIN, order, settings(), form)


def settings(**privacy):
    plain = {"data": {"name": "digits"}, "privacy": {"unit": "user", "noise_multiplier": 2.0}}
    return configuration.load({**plain, "privacy": plain["privacy"] | privacy}, (), {})


def part_of(reply, form=FORM):
    return messages.partial_sums(reply, read(reply), form)


def alone(reply):
    """Return what a reply adds to the sum by itself; None where it may not enter."""
    try:
        return part_of(reply)
    except InvalidUpdateError:
        return None


def test_ten_thousand_hostile_updates_move_the_sum_by_the_clipping_norm_at_most():
    rng = np.random.default_rng(4)
    replies = [hostile(client, rng) for client in range(COHORT)]
    for _ in range(10_000 // COHORT):
        made = [next(own) for own in replies]
        carrier = Answering(
            lambda client, _, made=made: message(client + 1, content=made[client][0])
        )
        answers = sent(carrier, list(range(COHORT)))
        counted = {c for c, record in answers.records.items() if not record.lost}
        assert set(answers.records) == set(range(COHORT))
        assert counted == {client for client, (_, is_fine) in enumerate(made) if is_fine}
        assert all(r.lost and r.traceback for c, r in answers.records.items() if c not in counted)
        parts = [alone(made[client][0]) for client in counted]
        for part in parts:
            assert float(torch.linalg.vector_norm(part.vector.double())) * STEP <= LARGEST
            assert part.count == 1
            assert not part.lanes
        total = exact.add(answers.sums)
        assert torch.equal(total.vector, sum(part.vector for part in parts))
        answers_of.training_metrics(answers)  # infinities of both signs, and sums that overflow


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_is_refused_where_workers_fold_too(kind):
    instruction = messages.model_content(messages.Train(torch.zeros(D), 1, form=FORM))
    good = unit(np.random.default_rng(1), CLIPPING_NORM / 2)
    for made in kind(1, np.random.default_rng(2)):
        replies = [message(3, content=content(2, good)), message(2, content=made)]
        folded = messages.fold(instruction, replies)
        total = exact.add(part_of(r.content) for r in folded if r.has_content())
        own = total.vector - part_of(content(2, good)).vector
        count = total.count - 1
        assert float(torch.linalg.vector_norm(own.double())) * STEP <= count * LARGEST
        assert [r.metadata.src_node_id for r in folded if r.has_error()] in ([], [2])


def test_the_reason_is_said():
    cases = {
        "NaN or infinity": content(0, poisoned(np.random.default_rng(0), math.nan)),
        "shape (9,), the model has (8,)": content(0, np.zeros(D + 1, np.float32)),
        "weight -1.0 is not above 0": content(0, GOOD, weight=-1.0),
        "L2 norm 0.6": content(0, np.array([0.6, *[0] * 7], np.float32)),
        "of type torch.int64": content(0, np.zeros(D, np.int64)),
        "lanes {'c': (8,)} are not bounded": content(0, GOOD, more={"lane/c": GOOD}),
        "KeyError": RecordDict({}),
        "answers for [1]": content(1, GOOD),
        "count and weight": summed(0, STEPS, count=9),
        "beyond what 1 updates": summed(0, STEPS * 2),
    }
    for reason, made in cases.items():
        answers = sent(Answering(lambda c, _, made=made: message(c + 1, content=made)), [0])
        assert reason in answers.records[0].lost, (reason, answers.records[0].lost)


def test_nobody_counts_twice_or_for_others_or_unasked():
    full = np.array([CLIPPING_NORM, *[0] * (D - 1)], np.float32)

    class Crowd(Answering):
        def broadcast(self, content_, nodes, kind, *, ttl, group_id):
            one = message(1, content=content(0, full))
            more = [message(1, content=content(0, full)) for _ in range(5)]
            late = message(1, error="an error after the answer")
            stranger = message(77, content=content(76, full))
            other = message(2, content=content(0, full))
            both = table([[2, 1.0, 0.1], [0, 1.0, 0.1]])
            two = message(3, content=summed(2, STEPS * 2, count=2, weight=str(2**21), rows=both))
            return [one, *more, late, stranger, other, two]

    answers = sent(Crowd(None), [0, 1, 2, 3])
    assert {c: bool(r.lost) for c, r in answers.records.items()} == {
        0: False, 1: True, 2: True, 3: True,
    }  # fmt: skip
    total = exact.add(answers.sums)
    assert total.count == 1
    assert total.vector.tolist() == STEPS.tolist()


VOTES = central.number_format(
    D, clipping_norm=CLIPPING_NORM, noise_multiplier=2.0, most=COHORT, has_votes=True
)
HALF = int(0.5 / 2.0**-VOTES.fraction_bits)


@pytest.mark.parametrize(
    "vote", [[0.51], [-1.0], [1e30], [math.nan], [-math.inf], [0.1, 0.1], [[0.1]], 0.1, [1], [True]]
)
def test_a_vote_is_one_half_at_most(vote):
    made = content(0, GOOD, more={"lane/within": np.array(vote)})
    with pytest.raises(InvalidUpdateError):
        part_of(made, VOTES)


def test_votes_are_the_only_lane_and_nobody_leaves_theirs_out():
    for vote in (0.5, -0.5):
        part = part_of(content(0, GOOD, more={"lane/within": [vote]}), VOTES)
        assert part.lanes["within"].tolist() == [2 * vote * HALF]
    more = {"lane/within": [0.5], "lane/c": GOOD}
    bad = [content(0, GOOD), content(0, GOOD, more=more), summed(0, STEPS)]
    bad += [summed(0, STEPS, more={"lane/within": [vote]}) for vote in (2 * HALF, LOW, 0.5)]
    for made in bad:
        with pytest.raises(InvalidUpdateError):
            part_of(made, VOTES)
    fine = summed(0, STEPS * 0, more={"lane/within": [-HALF]})
    assert part_of(fine, VOTES).count == 1


# Whole rounds, with the noise of a seed: what is lost changes nothing in it.

EXPERIMENT = {
    "seed": 3,
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 10},
    "model": {"name": "linear"},
    "privacy": {
        "unit": "user",
        "noise_multiplier": 2.0,
        "clipping_norm": CLIPPING_NORM,
        "noise": "seeded",
        "sampling": "poisson",
    },
    "rounds": {"count": 12, "cohort": 5},
    "evaluation": {"central_every": 0, "federated_every": 0},
}


@pytest.fixture(scope="module")
def federation():
    return lambda *overrides: build(configuration.load(EXPERIMENT, overrides, {}))


def run(federation, reply):
    carrier = Answering(reply)
    nodes = range(1, federation.population + 1)
    start = rounds.start_state(federation)
    return list(rounds.run_rounds(carrier, nodes, federation, start)), carrier, start


def zero(dimension):
    return lambda c, _: message(c + 1, content=content(c, np.zeros(dimension, np.float32)))


def test_a_hostile_client_never_ends_a_run(federation):
    made = federation("rounds.cohort=10")
    rng, dimension = np.random.default_rng(0), made.initial.numel()
    replies = [hostile(client, rng) for client in range(10)]

    def reply(client, number):
        if client == 0:
            return zero(dimension)(client, number)
        return message(client + 1, content=next(replies[client])[0])

    done, _, _ = run(made, reply)
    assert len(done) == 12
    assert all(bool(state.strategy["model"].isfinite().all()) for _, state in done)
    assert sum(record.lost for record, _ in done) > 50
    assert all(r.lost for record, _ in done for r in record.clients if r.client and r.lost != "")


def test_drop_outs_change_neither_noise_nor_denominator(federation):
    made = federation("rounds.cohort=10")
    answer = zero(made.initial.numel())
    everybody, _, _ = run(made, answer)

    def dropping(client, number):
        if client == number % 10:
            return answer(client, number)
        return None if client % 2 else message(client + 1, error="gone")

    few, _, _ = run(made, dropping)
    assert [r.lost for r, _ in few] == [9] * 12
    assert [r.model_sha256 for r, _ in few] == [r.model_sha256 for r, _ in everybody]


def test_a_cohort_of_nobody_is_a_step_of_noise(federation):
    made = federation("rounds.cohort=1", "rounds.count=40")
    done, carrier, start = run(made, zero(made.initial.numel()))
    empty = [i for i, nodes in enumerate(carrier.asked) if not nodes]
    assert 5 <= len(empty) < 40  # (9/10)^10 of the rounds
    models = [start.strategy["model"], *(state.strategy["model"] for _, state in done)]
    steps = torch.stack([models[i + 1] - models[i] for i in empty])
    expected = 2.0 * CLIPPING_NORM  # x noise multiplier, / a cohort of 1
    assert float(steps.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * steps.numel()))
    assert all(record.cohort == 0 for i, (record, _) in enumerate(done) if i in empty)


def test_a_cohort_that_is_all_lost_ends_the_run_with_the_reason(federation):
    made = federation("rounds.cohort=10")
    with pytest.raises(RunFailedError, match="10 clients gave a result") as info:
        run(made, lambda client, _: message(client + 1, content=content(client, JUNK)))
    assert len(info.value.records) == 10
    assert "cannot be read" in info.value.records[0].lost


@pytest.mark.parametrize("lost", [0, COHORT])
def test_the_noise_is_normal_and_of_the_right_size(lost):
    """KS p > 0.01 and 1 % of the standard deviation, whoever is lost."""
    d, multiplier = 200_000, 1.7
    form = central.number_format(
        d, clipping_norm=CLIPPING_NORM, noise_multiplier=multiplier, most=COHORT
    )
    total: PartialSum = exact.zero(form)
    if not lost:
        vector = torch.zeros(d)
        vector[0] = CLIPPING_NORM
        for _ in range(COHORT):
            total = exact.accumulate(total, Update(vector, 1.0), form)
    stream = Stream.seeded(5, "noise", round=lost)
    released = central.noised(total, form, multiplier, COHORT, stream)
    noise = (released.vector - exact.decode(total, form).vector) / CLIPPING_NORM
    assert float(noise.std()) == pytest.approx(multiplier, rel=0.01)
    assert stats.kstest(noise.numpy(), "norm", args=(0.0, multiplier)).pvalue > 0.01
    assert (released.weight, released.count) == (COHORT, COHORT)
    secret = central.noised(exact.zero(form), form, multiplier, COHORT, Stream.secret())
    assert float(secret.vector.std()) / CLIPPING_NORM == pytest.approx(multiplier, rel=0.01)
