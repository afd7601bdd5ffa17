"""Codes of updates: numbers of the papers, round trips, bytes, what is lost and what comes back."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import registry
from fedsim.coding import (
    Shared,
    coded,
    coded_together,
    decoder,
    kind_of,
    reduced,
    reduced_together,
    size_of,
    told,
)
from fedsim.core import ClientContext
from fedsim.exact import InvalidUpdateError
from fedsim.transforms._bits import omega, omega_values, pack, unpack
from fedsim.transforms.bfloat16 import BFloat16
from fedsim.transforms.drive import Drive
from fedsim.transforms.eden import Eden, centroids
from fedsim.transforms.ef_signsgd import EfSignSgd
from fedsim.transforms.float16 import Float16
from fedsim.transforms.int8 import Int8
from fedsim.transforms.powersgd import PowerSgd
from fedsim.transforms.qsgd import Qsgd
from fedsim.transforms.randomk import RandomK
from fedsim.transforms.randomk_shared import RandomKShared
from fedsim.transforms.signsgd import SignSgd
from fedsim.transforms.topk import TopK

SHAPES = ((9, 14), (9,), (4, 3, 3, 3), (4,), ())
MADE = [registry.load("transforms", name)() for name in registry.names("transforms")]
CODERS = [
    *(part for part in MADE if kind_of(part) == "coded"),
    TopK(0.01),
    TopK(1.0),
    RandomK(0.3, feedback="ef"),
    Qsgd(bits=2, bucket=10, coding="elias"),
    Qsgd(bits=9, coding="elias"),
    PowerSgd(rank=1, iterations=2),
    Drive(scale="nearest", feedback="ef"),
    Eden(bits=1),
]
#: Those whose clients keep nothing: what is kept leaves the device. Elias codes count bits there.
STATELESS = [
    *(part for part in MADE if kind_of(part) == "coded" and not hasattr(part, "feedback")),
    *(made(feedback="none") for made in (TopK, RandomK, EfSignSgd, Drive)),
]
UNBIASED = [RandomK(0.25), Qsgd(bits=3, bucket=20), Int8(bucket=50)]


def name_of(part):
    return "-".join([type(part).__name__, *(str(getattr(part, f)) for f in part.__slots__)])


def shared(shapes=SHAPES, round=1):
    return Shared(shapes, 7, round)


def ctx(client=0, round=1):
    return ClientContext(3, round, client)


def normal(seed=0, shapes=SHAPES):
    return torch.randn(size_of(shapes), generator=torch.Generator().manual_seed(seed))


def through(part, vector, memo=None, *, shapes=None, client=0, round=1):
    shapes = shapes or ((len(vector),),)
    return coded(part, vector, memo or {}, shared(shapes, round), ctx(client, round))


def squared(vector):
    return float(vector.double().square().sum())


@pytest.mark.parametrize("part", CODERS, ids=name_of)
class TestContract:
    def test_the_server_makes_of_the_bytes_what_the_client_did(self, part):
        found = through(part, normal(), shapes=SHAPES)
        decode = decoder(told(part, SHAPES, 7), 1)
        assert torch.equal(decode(found.code), found.vector)
        assert found.vector.dtype == torch.float32
        assert found.code.dtype == np.uint8

    def test_the_bytes_are_those_of_the_formula(self, part):
        found = through(part, normal(), shapes=SHAPES)
        if getattr(part, "coding", "") != "elias":
            assert len(found.code) == part.size_bytes(SHAPES)

    def test_the_same_streams_give_the_same_bytes(self, part):
        first, again = (through(part, normal(), shapes=SHAPES) for _ in range(2))
        assert first.code.tobytes() == again.code.tobytes()

    def test_nothing_stays_nothing(self, part):
        assert not through(part, torch.zeros(size_of(SHAPES)), shapes=SHAPES).vector.any()

    def test_a_code_that_is_cut_or_longer_is_refused(self, part):
        code = through(part, normal(), shapes=SHAPES).code
        decode = decoder(told(part, SHAPES, 7), 1)
        for wrong in (code[:-1], np.append(code, np.uint8(0)), code.astype(np.int32), code[:0]):
            with pytest.raises(InvalidUpdateError):
                decode(wrong)

    def test_an_update_that_is_not_finite_is_refused_before_anything_is_kept(self, part):
        for bad in (math.nan, math.inf):
            vector = normal()
            vector[3] = bad
            with pytest.raises(InvalidUpdateError, match="NaN"):
                through(part, vector, shapes=SHAPES)

    def test_what_is_kept_and_what_is_sent_are_what_there_was(self, part):
        memo, sent, trained = {}, torch.zeros(size_of(SHAPES)), torch.zeros(size_of(SHAPES))
        for round in range(1, 5):
            found = through(part, normal(round), memo, shapes=SHAPES, round=round)
            memo, sent, trained = found.memo, sent + found.vector, trained + normal(round)
        if getattr(part, "feedback", "none") == "none":
            assert "residual" not in memo
        else:
            torch.testing.assert_close(sent + memo["residual"], trained, rtol=0, atol=1e-5)

    def test_garbage_is_refused_or_is_an_update(self, part):
        decode, size = decoder(told(part, SHAPES, 7), 1), part.size_bytes(SHAPES)
        for seed in range(5):
            try:
                vector = decode(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
            except InvalidUpdateError:
                continue
            assert vector.shape == (size_of(SHAPES),)

    def test_many_at_once_are_received_as_each_would_be(self, part):
        memos = [{} for _ in range(4)]
        for round in (1, 2):
            # The first tensor of the first client did not move.
            vectors = torch.stack([normal(10 * round + i) * 10.0**i for i in range(4)])
            vectors[0, : 9 * 14] = 0
            contexts, own = [ctx(i, round) for i in range(4)], shared(SHAPES, round)
            alone = [
                coded(part, vector, memo, own, context)
                for vector, memo, context in zip(vectors, memos, contexts, strict=True)
            ]
            found, is_finite = coded_together(part, vectors, memos, own, contexts)
            assert is_finite.all()
            assert list(found.sizes) == [len(each.code) for each in alone]
            for i, each in enumerate(alone):
                size = float(vectors[i].abs().max())
                torch.testing.assert_close(
                    found.vectors[i], each.vector, rtol=1e-6, atol=1e-6 * size
                )
                assert found.memos[i].keys() == each.memo.keys()
                for name, kept in each.memo.items():
                    torch.testing.assert_close(
                        found.memos[i][name], kept, rtol=1e-5, atol=1e-5 * size
                    )
            memos = [each.memo for each in alone]

    def test_one_of_many_that_is_not_finite_harms_no_other(self, part):
        vectors = torch.stack([normal(i) for i in range(3)])
        good, _ = coded_together(part, vectors, [{}] * 3, shared(), [ctx(i) for i in range(3)])
        vectors[1, 5] = math.nan
        found, is_finite = coded_together(
            part, vectors, [{}] * 3, shared(), [ctx(i) for i in range(3)]
        )
        assert is_finite.tolist() == [True, False, True]
        assert torch.equal(found.vectors[0], good.vectors[0])
        assert torch.equal(found.vectors[2], good.vectors[2])
        assert found.vectors.isfinite().all()


@pytest.mark.parametrize("part", STATELESS, ids=name_of)
def test_nothing_mixes_the_device_with_the_cpu_or_waits_for_it(part):
    vectors = torch.empty(3, size_of(SHAPES), device="meta")
    contexts = [ctx(i) for i in range(3)]
    found, is_finite = coded_together(part, vectors, [{}] * 3, shared(), contexts)
    assert found.vectors.device.type == is_finite.device.type == "meta"
    assert found.vectors.shape == vectors.shape
    numbers = RandomKShared(0.2).reduce(vectors, shared())
    assert RandomKShared(0.2).expand(numbers, shared()).shape == vectors.shape


@pytest.mark.parametrize("feedback", ["ef", "none"])
def test_many_are_reduced_as_each_would_be(feedback):
    part, memos = RandomKShared(0.2, feedback), [{} for _ in range(3)]
    for round in (1, 2):
        vectors = torch.stack([normal(10 * round + i) for i in range(3)])
        own = shared(SHAPES, round)
        alone = [reduced(part, v, m, own) for v, m in zip(vectors, memos, strict=True)]
        found, is_finite = reduced_together(part, vectors, memos, own)
        assert is_finite.all()
        assert torch.equal(found.vectors, torch.stack([each for each, _ in alone]))
        for mine, (_, wanted) in zip(found.memos, alone, strict=True):
            assert mine.keys() == wanted.keys()
            assert all(torch.equal(mine[name], wanted[name]) for name in mine)
        memos = found.memos


@pytest.mark.parametrize("part", UNBIASED, ids=name_of)
def test_the_mean_of_many_clients_is_the_update(part):
    vector, draws = normal(4, ((150,),)), 300
    found = torch.stack([through(part, vector, client=i).vector for i in range(draws)]).double()
    off = found.mean(dim=0) - vector
    # Five standard errors of each coordinate's own mean.
    assert (off.abs() <= 5 * found.std(dim=0) / math.sqrt(draws) + 1e-6).all()


@pytest.mark.parametrize("part", [Drive(), Eden(bits=2)], ids=name_of)
def test_the_mean_of_many_turns_is_nearly_the_update(part):
    # Exactly so over uniform rotations; a Hadamard transform is not quite one.
    vector, draws = normal(4, ((2048,),)).exp(), 60
    found = [through(part, vector, client=i).vector for i in range(draws)]
    alone = squared(found[0] - vector)
    left = squared(torch.stack(found).double().mean(dim=0) - vector)
    assert left == pytest.approx(alone / draws, rel=0.3)


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.integers(0, 99))
@settings(max_examples=30)
def test_topk_loses_the_least_that_so_many_coordinates_can(size, fraction, seed):
    vector = normal(seed, ((size,),))
    found = through(TopK(fraction, feedback="none"), vector)
    kept = max(1, math.ceil(fraction * size))
    best = vector.square().sort(descending=True).values[kept:].sum()
    assert squared(vector - found.vector) == pytest.approx(float(best), rel=1e-5, abs=1e-9)
    assert squared(vector - found.vector) <= (1 - kept / size) * squared(vector) * (1 + 1e-6)


def test_topk_by_hand():
    found = through(TopK(0.5), torch.tensor([1.0, -3.0, 2.0, 0.5]))
    assert found.vector.tolist() == [0.0, -3.0, 2.0, 0.0]
    assert found.memo["residual"].tolist() == [1.0, 0.0, 0.0, 0.5]
    # Two float32 and a bit for each of four places, which is as short as twice two bits.
    assert len(found.code) == 2 * 4 + 1
    assert TopK(0.01).size_bytes(((1000,),)) == 10 * 4 + 13  # ten places of ten bits
    assert TopK(0.2).size_bytes(((1000,),)) == 200 * 4 + 125  # a bit for each place


def test_random_k_errs_as_its_closed_form_says():
    vector, draws = normal(1, ((60,),)), 2000
    part = RandomK(0.2)
    errors = [squared(through(part, vector, client=i).vector - vector) for i in range(draws)]
    wanted = (60 / 12 - 1) * squared(vector)
    assert np.mean(errors) == pytest.approx(wanted, abs=5 * np.std(errors) / math.sqrt(draws))


@pytest.mark.parametrize(("bits", "bucket"), [(2, 64), (4, 64), (4, 7)])
def test_qsgd_errs_by_no_more_than_its_lemma(bits, bucket):
    vector, levels = normal(2, ((64,),)), 2 ** (bits - 1) - 1
    errors = [
        squared(through(Qsgd(bits, bucket), vector, client=i).vector - vector) for i in range(300)
    ]
    # The closed form of each coordinate's variance: norm^2 / s^2 x p (1 - p), p the distance from
    # the level below; lemma 3.1 bounds its sum.
    wanted, bound = 0.0, 0.0
    for part in torch.split(vector.double(), bucket):
        norm = float(part.norm())
        p = (part.abs() / norm * levels).frac()
        wanted += norm**2 / levels**2 * float((p * (1 - p)).sum())
        bound += min(len(part) / levels**2, math.sqrt(len(part)) / levels) * norm**2
    assert np.mean(errors) == pytest.approx(wanted, abs=5 * np.std(errors) / math.sqrt(300))
    assert wanted <= bound


def test_qsgd_in_elias_code_is_the_same_update_in_fewer_bytes():
    vector = normal(3, ((4000,),))
    fixed = through(Qsgd(bits=4, bucket=4000), vector)
    elias = through(Qsgd(bits=4, bucket=4000, coding="elias"), vector)
    assert torch.equal(fixed.vector, elias.vector)
    assert len(elias.code) < 0.5 * len(fixed.code)


def test_elias_codes_are_those_of_his_table():
    words = {1: "0", 2: "100", 3: "110", 4: "101000", 7: "101110", 8: "1110000", 16: "10100100000"}
    for value, word in words.items():
        bits = "".join(map(str, np.unpackbits(omega(np.array([value])), bitorder="little")))
        assert bits[: len(word)] == word
        assert set(bits[len(word) :]) <= {"0"}


@given(st.lists(st.integers(1, 70000), max_size=50))
def test_elias_codes_are_read_back(values):
    code = omega(np.array(values, dtype=np.int64))
    found, used = omega_values(code, len(values))
    assert found.tolist() == values
    assert used == len(code)


@given(st.integers(1, 20), st.data())
def test_packed_numbers_are_read_back(bits, data):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    code = pack(np.array(values, dtype=np.int64), bits)
    assert len(code) == -(-bits * len(values) // 8)
    assert unpack(code, bits, len(values)).tolist() == values


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_half_precisions_err_by_half_a_unit(numbers):
    vector = torch.tensor(numbers)
    for part, bits, least in ((Float16(), 11, 2.0**-25), (BFloat16(), 8, 1e-38)):
        error = (through(part, vector).vector - vector).abs()
        assert (error <= vector.abs() * 2.0**-bits + least).all()


def test_half_precision_is_numpys():
    vector = normal(5)
    wanted = vector.numpy().astype(np.float16)
    assert through(Float16(), vector, shapes=SHAPES).code.tobytes() == wanted.tobytes()


@given(st.integers(0, 99), st.sampled_from([5, 64, 1000]))
@settings(max_examples=20)
def test_int8_is_never_off_by_a_step(seed, bucket):
    vector = normal(seed, ((130,),)) * 10.0 ** (seed % 7 - 3)
    found = through(Int8(bucket), vector).vector
    for part, own in zip(vector.split(bucket), found.split(bucket), strict=True):
        assert (part - own).abs().max() <= part.abs().max() / 127 * (1 + 1e-5)


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_ef_sign_contracts_as_its_lemma_says(seed):
    vector = normal(seed, ((40,),))
    found = through(EfSignSgd(), vector).vector
    l1, l2 = float(vector.double().abs().sum()), squared(vector)
    wanted = (1 - l1**2 / (40 * l2)) * l2  # Karimireddy et al. 2019, Lemma 8
    assert squared(vector - found) == pytest.approx(wanted, rel=1e-5)


def test_signs_are_votes_and_what_did_not_move_has_none():
    vector = torch.tensor([0.5, -2.0, 0.0, 0.0, 0.0, -1e-9])
    found = through(SignSgd(), vector, shapes=((2,), (2,), (2,)))
    assert found.vector.tolist() == [1, -1, 0, 0, 1, -1]
    assert len(found.code) == 2


def test_power_iterations_end_at_the_truncated_svd():
    shapes = ((30, 20),)
    left = torch.linalg.qr(torch.randn(30, 20, generator=torch.Generator().manual_seed(1))).Q
    right = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(2))).Q
    matrix = left @ torch.diag(0.7 ** torch.arange(20.0)) @ right.t()
    u, s, v = torch.linalg.svd(matrix)
    best = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
    part = PowerSgd(rank=3, iterations=40, feedback="none")
    found = through(part, matrix.flatten(), shapes=shapes).vector.view(30, 20)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-4)
    # One iteration a round, with the warm start, ends there too.
    memo, part = {}, PowerSgd(rank=3, feedback="none")
    for round in range(40):
        sent = through(part, matrix.flatten(), memo, shapes=shapes, round=round)
        memo = sent.memo
    torch.testing.assert_close(sent.vector.view(30, 20), best, rtol=0, atol=1e-4)


def test_a_matrix_of_low_rank_is_sent_whole_in_its_factors():
    stream = torch.Generator().manual_seed(1)
    matrix = torch.randn(12, 2, generator=stream) @ torch.randn(2, 10, generator=stream)
    found = through(PowerSgd(rank=2), matrix.flatten(), shapes=((12, 10),))
    torch.testing.assert_close(found.vector, matrix.flatten(), rtol=1e-4, atol=1e-5)
    assert len(found.code) == 4 * 2 * (12 + 10)


def test_drive_errs_by_its_theorem():
    # Theorem 2: (1 - 2/pi)(1 - 1/d) over uniform rotations, which a Hadamard transform with random
    # signs comes near to; unbiased, pi/2 - 1 in the limit (Theorem 4).
    size, draws = 4096, 40
    vector = normal(6, ((size,),)).exp()  # far from normal itself
    for scale, wanted in (
        ("nearest", (1 - 2 / math.pi) * (1 - 1 / size)),
        ("unbiased", math.pi / 2 - 1),
    ):
        part = Drive(scale=scale)
        errors = [squared(through(part, vector, client=i).vector - vector) for i in range(draws)]
        assert np.mean(errors) / squared(vector) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(
    "vector",
    [[1.0, 0, 0, 0, 0, 0, 0, 0], [1.0, 1, 0, 0, 0, 0, 0, 0], [3.0, -1, 2, 0.5, 0, 1, 1, 9]],
)
def test_no_vector_is_worse_for_drive_than_khintchines_inequality_lets_it(vector, monkeypatch):
    # Over all 2^8 signs of the transform: the mean error of the nearest scale is at most a half.
    from fedsim.transforms import _rotation

    given = torch.tensor(vector)
    errors = []
    for signs in itertools.product((1.0, -1.0), repeat=8):
        monkeypatch.setattr(
            _rotation, "signs", lambda seed, size, own=signs: torch.tensor(own).double()
        )
        errors.append(squared(through(Drive(scale="nearest"), given).vector - given))
    assert np.mean(errors) <= 0.5 * squared(given) * (1 + 1e-9)


def test_edens_centroids_are_those_that_max_printed():
    # Max 1960, Table I: of 2, 4 and 8 levels, and the error of each.
    assert centroids(1)[1] == pytest.approx(0.7980, abs=2e-4)
    assert centroids(2)[2:] == pytest.approx([0.4528, 1.510], abs=5e-4)
    assert centroids(3)[4:] == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=5e-4)


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_eden_errs_as_its_quantizer_does(bits, distortion):
    # Of a normal number E Q^2 = E x Q = 1 - D, so that the unbiased scale leaves 1 / (1 - D) - 1.
    vector = normal(7, ((8192,),)).exp()
    errors = [squared(through(Eden(bits), vector, client=i).vector - vector) for i in range(20)]
    wanted = 1 / (1 - distortion) - 1
    assert np.mean(errors) / squared(vector) == pytest.approx(wanted, rel=0.05)


def test_eden_of_one_bit_is_drive():
    vector = normal(8, ((256,),))
    # Their seeds are of streams of their own; the scales are the same function of a turned vector.
    errors = [
        np.mean([squared(through(part, vector, client=i).vector - vector) for i in range(200)])
        for part in (Eden(bits=1), Drive())
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def descended(part, rounds=400):
    """Gradient descent by codes on x^2 + y^2 / 100 at (1, 1), the larger slope always first."""
    x, memo = torch.tensor([1.0, 1.0]), {}
    for round in range(rounds):
        # Noise of opposite signs in the first coordinate keeps it the larger one.
        noise = 4.0 if round % 2 else -4.0
        gradient = torch.tensor([2 * x[0] + noise, 0.02 * x[1]])
        sent = through(part, -0.05 * gradient, memo, round=round)
        x, memo = x + sent.vector, sent.memo
    return x


def test_error_feedback_learns_what_topk_alone_never_sends():
    alone = descended(TopK(0.5, feedback="none"))
    fed_back = descended(TopK(0.5, feedback="ef"))
    plain = descended(TopK(1.0))
    assert alone[1] == 1.0
    assert fed_back[1] == pytest.approx(float(plain[1]), abs=0.15)  # the rest is still kept
    assert plain[1] < 0.7


def test_error_feedback_repairs_signs():
    # Karimireddy et al. 2019, counterexample 1: gradients (3, -1, -1)/4 by chance; the mean slope
    # is positive in expectation only, and plain signs climb.
    stream, memo = np.random.default_rng(0), {}
    ef = plain = 0.0
    for round in range(1500):
        gradient = 4.0 if stream.random() < 0.25 else -1.0
        plain -= 0.01 * math.copysign(1.0, gradient)
        sent = through(EfSignSgd(), torch.tensor([-0.01 * gradient]), memo, round=round)
        ef, memo = ef + float(sent.vector), sent.memo
    assert plain > 1.0  # away from where the mean gradient, 1/4, points
    assert ef < -1.0
