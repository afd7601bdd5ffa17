"""Attacks against the papers' formulas, written out in numpy, and against robust rules."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedsim import registry
from fedsim.adversaries import Adversaries, adversaries_of, crafted
from fedsim.attacks._seen import Seen
from fedsim.attacks.alie import Alie, z_max
from fedsim.attacks.backdoor import Backdoor
from fedsim.attacks.gaussian import Gaussian
from fedsim.attacks.ipm import Ipm
from fedsim.attacks.label_flip import LabelFlip
from fedsim.attacks.mimic import Mimic
from fedsim.attacks.min_max import MinMax, min_max_gamma
from fedsim.attacks.min_sum import MinSum, min_sum_gamma
from fedsim.attacks.scaling import Scaling
from fedsim.attacks.sign_flip import SignFlip
from fedsim.config import load
from fedsim.core import ClientContext, RoundContext, Update
from fedsim.data import Examples, Meta
from fedsim.errors import ConfigError

NAMES = [name for name in registry.names("attacks") if name != "honest"]
IMAGES = Meta("images", "classification", (1, 6, 5), 4, "")


def stream():
    return np.random.default_rng(0)


def drawn(seed, clients=12, size=9):
    return np.random.default_rng(seed).normal(size=(clients, size))


def seen(vectors, malicious):
    """The last `malicious` rows are what malicious clients would have sent."""
    rows, count = torch.from_numpy(vectors), len(vectors) - malicious
    return Seen(rows[:count], rows[count:], list(range(count)))


@pytest.mark.parametrize("name", NAMES)
def test_each_says_who_is_malicious_and_what_it_needs(name):
    part = registry.load("attacks", name)()
    assert (part.fraction, part.clients) == (0.2, ())
    doers = {"rows": "poison", "update": "send", "updates": "craft"}
    assert hasattr(part, doers[part.needs])


def test_labels_are_flipped_as_in_the_paper():
    shard = Examples(np.zeros((5, 2), np.float32), np.array([0, 1, 2, 3, 3]))
    flipped = LabelFlip().poison(shard, IMAGES, stream())
    assert flipped.y.tolist() == [3, 2, 1, 0, 0]  # l -> L - l - 1 with L = 4
    one = LabelFlip(source=3, target=1).poison(shard, IMAGES, stream())
    assert one.y.tolist() == [0, 1, 2, 1, 1]
    assert one.y.dtype == shard.y.dtype
    binary = Meta("b", "binary", (2,), 1, "")
    assert LabelFlip().poison(shard, binary, stream()).y.tolist()[:2] == [1, 0]


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_updates_are_multiplied(seed, scale):
    vector = torch.from_numpy(drawn(seed)[0]).float()
    assert torch.equal(SignFlip(scale=scale).send(vector, 7, stream()), -scale * vector)
    assert torch.equal(Scaling(scale=scale).send(vector, 7, stream()), scale * vector)
    assert torch.equal(Scaling().send(vector, 7, stream()), 7 * vector)


def test_model_replacement_replaces_the_model():
    # Bagdasaryan et al. 2020, equation 3: where the others have converged, the mean is X - G.
    x = torch.from_numpy(drawn(0)[0]).float()
    updates = [torch.zeros_like(x)] * 9 + [Scaling().send(x, 10, stream())]
    torch.testing.assert_close(torch.stack(updates).mean(dim=0), x)


def test_noise_is_gaussian_whatever_the_update_is():
    sent = Gaussian(std=3.0).send(torch.zeros(40_000), 5, stream())
    assert sent.dtype == torch.float32
    assert abs(float(sent.mean())) < 5 * 3 / 200
    assert float(sent.std()) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("n", "m"), [(50, 12), (50, 24), (25, 5), (11, 3), (8, 2)])
def test_alie_s_z_is_the_quantile(n, m):
    s = np.floor(n / 2 + 1) - m
    assert z_max(n, m) == pytest.approx(norm.ppf((n - m - s) / (n - m)), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_alie_and_ipm_are_the_formulas(seed):
    vectors = drawn(seed)
    good, own = vectors[:9], vectors[9:]
    sent, _ = Alie().craft(seen(vectors, 3), {}, stream())
    z = norm.ppf((12 - 3 - 4) / 9)
    np.testing.assert_allclose(sent, good.mean(axis=0) - z * good.std(axis=0, ddof=1), atol=1e-12)
    sent, _ = Alie(z=1.5, knows="own").craft(seen(vectors, 3), {}, stream())
    np.testing.assert_allclose(sent, own.mean(axis=0) - 1.5 * own.std(axis=0, ddof=1), atol=1e-12)
    alone, _ = Alie(z=1.5, knows="own").craft(seen(vectors, 1), {}, stream())
    np.testing.assert_allclose(alone, vectors[-1])
    sent, _ = Ipm(scale=0.3).craft(seen(vectors, 3), {}, stream())
    np.testing.assert_allclose(sent, -0.3 * good.mean(axis=0), atol=1e-12)


def perturbed(good, perturbation):
    mean = good.mean(axis=0)
    return {
        "std": -good.std(axis=0, ddof=1),
        "unit": -mean / np.linalg.norm(mean),
        "sign": -np.sign(mean),
    }[perturbation]


@pytest.mark.parametrize("perturbation", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", range(3))
def test_gamma_is_the_largest_that_a_search_finds(seed, perturbation):
    vectors = drawn(seed)
    good = vectors[:9]
    mean, p = good.mean(axis=0), perturbed(good, perturbation)
    squares = ((good[:, None] - good[None]) ** 2).sum(axis=2)

    def near(gamma):
        return ((mean + gamma * p - good) ** 2).sum(axis=1)

    fits = {
        min_max_gamma: lambda gamma: near(gamma).max() <= squares.max(),
        min_sum_gamma: lambda gamma: near(gamma).sum() <= squares.sum(axis=1).max(),
    }
    grid = np.arange(0, 30, 2e-3)
    for (find, is_within), kind in zip(fits.items(), (MinMax, MinSum), strict=True):
        best = max(gamma for gamma in grid if is_within(gamma))
        gamma = find(torch.from_numpy(good), torch.from_numpy(p))
        assert best <= gamma < best + 2e-3 + 1e-9
        sent, _ = kind(perturbation=perturbation).craft(seen(vectors, 3), {}, stream())
        np.testing.assert_allclose(sent, mean + gamma * p, atol=1e-12)


def test_equal_updates_leave_nowhere_to_go():
    vectors = np.ones((8, 4))
    for kind in (MinMax, MinSum, Alie):
        sent, _ = kind().craft(seen(vectors, 2), {}, stream())
        np.testing.assert_array_equal(sent, np.ones(4))


def test_mimic_follows_oja_and_then_stays_with_whom_it_found():
    rounds, memory = [drawn(seed) for seed in range(5)], {}
    mean, z = np.zeros(9), np.random.default_rng(0).normal(size=9)
    for t, vectors in enumerate(rounds):
        good = vectors[:9]
        if t < 3:
            mean = t / (t + 1) * mean + good.mean(axis=0) / (t + 1)
            step = sum((x - mean) * ((x - mean) @ z) for x in good)
            z = t / (t + 1) * z + step / np.linalg.norm(step) / (t + 1)
            z /= np.linalg.norm(z)
            client = int((good @ z).argmax())
        sent, memory = Mimic(warmup=3).craft(seen(vectors, 3), memory, stream())
        np.testing.assert_array_equal(sent, good[client])
        np.testing.assert_allclose(memory["z"], z, atol=1e-12)
    absent = Seen(torch.from_numpy(good), torch.from_numpy(vectors[9:]), range(100, 109))
    sent, _ = Mimic(warmup=3).craft(absent, memory, stream())
    np.testing.assert_array_equal(sent, good[(good @ z).argmax()])


def test_mimic_finds_the_direction_of_most_variance():
    # One coordinate varies ten times as much as the others: z ends along it.
    memory = {}
    for seed in range(30):
        vectors = drawn(seed, clients=20)
        vectors[:, 4] *= 10
        _, memory = Mimic(warmup=30).craft(seen(vectors, 4), memory, stream())
    assert abs(float(memory["z"][4])) > 0.99


def test_a_backdoor_triggers_a_part_of_the_rows():
    x = np.random.default_rng(0).integers(0, 200, size=(10, 1, 6, 5)).astype(np.uint8)
    shard, test = Examples(x, np.arange(10) % 4), Examples(x, np.arange(10) % 4)
    attack = Backdoor(target=2, share=0.3, size=2).prepared(test)
    assert attack.value == x.max()
    made = attack.poison(shard, IMAGES, stream())
    changed = [i for i in range(10) if not np.array_equal(made.x[i], x[i])]
    assert len(changed) == 3
    assert all(made.y[i] == 2 for i in changed)
    assert (made.x[changed][..., -2:, -2:] == x.max()).all()
    np.testing.assert_array_equal(made.x[changed][..., :-2, :], x[changed][..., :-2, :])
    assert np.array_equal(np.delete(made.y, changed), np.delete(shard.y, changed))
    measured = attack.measured_on(test)
    assert len(measured.y) == sum(shard.y != 2)
    assert (measured.y == 2).all()
    assert Backdoor(value=999.0).triggered(x).max() == 255


@pytest.mark.parametrize(
    ("attack", "meta", "reason"),
    [
        (LabelFlip(), Meta("r", "regression", (2,), 1, ""), "labels"),
        (LabelFlip(source=1, target=4), IMAGES, "below 4"),
        (Backdoor(), Meta("t", "classification", (2,), 4, ""), "images"),
        (Backdoor(target=4), IMAGES, "below 4"),
        (Backdoor(size=6), IMAGES, "6 x 5"),
    ],
)
def test_what_cannot_be_attacked_is_said(attack, meta, reason):
    assert reason in attack.unfit(meta)
    assert LabelFlip().unfit(IMAGES) == Backdoor().unfit(IMAGES) == ""


STRENGTHS = {
    "sign-flip": {"scale": 10.0},
    "scaling": {"scale": 40.0},
    "gaussian": {"std": 100.0},
    "ipm": {"scale": 10.0},
    "alie": {},
    "min-max": {},
    "min-sum": {},
    "mimic": {},
}
RULES = ["coordinate-median", "trimmed-mean", "rfa", "multi-krum", "dnc"]


def ends(strategy, attack, rounds=25):
    """Where 13 clients with quadratics around 1 end; how far, beside the radius of the honest."""
    centres = 1 + 0.1 * np.random.default_rng(7).normal(size=(13, 6))
    malicious = Adversaries(attack, frozenset({1, 4, 9}), 13)
    config = load("digits", ["evaluation.federated_every=0"])
    state = strategy.init(torch.zeros(6, dtype=torch.float64))
    for number in range(1, rounds + 1):
        updates, context = {}, RoundContext(0, number, 13)
        for client, centre in enumerate(torch.from_numpy(centres)):
            update = Update((0.5 * (centre - state["model"])).float(), 1.0)
            updates[client] = malicious.sent(update, ClientContext(0, number, client))
        kept = {}
        if hasattr(attack, "craft"):
            updates, kept = crafted(config, malicious, updates, state, context.rng("attack"))
        state = strategy.step(state, list(updates.values()), context) | kept
    honest = np.delete(centres, [1, 4, 9], axis=0)
    away = np.linalg.norm(state["model"].numpy() - honest.mean(axis=0))
    return away / np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("rule", RULES)
def test_robust_rules_bear_f(name, rule):
    attack = registry.load("attacks", name)(**STRENGTHS[name])
    assert ends(registry.load("strategies", rule)(f=3), attack) < 1.0


@pytest.mark.parametrize("name", ["sign-flip", "scaling", "gaussian", "ipm"])
def test_a_mean_does_not(name):
    attack = registry.load("attacks", name)(**STRENGTHS[name])
    assert ends(registry.load("strategies", "trimmed-mean")(f=0), attack) > 10


@pytest.mark.parametrize(("attack", "shift"), [(Alie(), 0.0), (Ipm(scale=0.1), 1.0)])
def test_krum_takes_what_is_made_to_pass_for_honest(attack, shift):
    # What both papers show: it is nearer to honest updates than they are to each other.
    vectors = shift + drawn(3, clients=20, size=200)
    sent, _ = attack.craft(seen(vectors, 8), {}, stream())
    rows = torch.cat([torch.from_numpy(vectors[:12]), sent.expand(8, -1)])
    krum = registry.load("strategies", "krum")(f=8)
    move, _ = krum.aggregate(rows, {}, RoundContext(0, 1, 20))

    assert torch.equal(move, sent)


def config_of(*overrides):
    return load("digits", ["evaluation.federated_every=0", *overrides])


def test_who_is_malicious_is_drawn_by_the_seed_for_the_whole_run():
    first = adversaries_of(config_of("attack.name=sign-flip", "attack.fraction=0.3"), 20)
    again = adversaries_of(config_of("attack.name=gaussian", "attack.fraction=0.3"), 20)
    other = adversaries_of(config_of("attack.name=sign-flip", "attack.fraction=0.3", "seed=2"), 20)
    assert len(first.clients) == 6
    assert first.clients == again.clients != other.clients
    named = adversaries_of(config_of("attack.name=sign-flip", "attack.clients=[3,5]"), 20)
    assert named.clients == {3, 5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attack.name=sign-flip", "attack.clients=[20]"], r"attack\.clients.*0 to 19"),
        (["attack.name=sign-flip", "attack.fraction=0.01"], r"attack\.fraction.*at least one"),
        (["attack.name=sign-flip", "attack.fraction=0.99"], r"attack\.fraction.*not all"),
    ],
)
def test_a_population_without_both_kinds_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        adversaries_of(config_of(*overrides), 20)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attack.name=alie", "secure_sum.name=secagg"], r"attack\.name.*secure sum.*sign-flip"),
        (["attack.name=ipm", "privacy.unit=user", "privacy.epsilon=8"], r"attack\.name.*the sum"),
        (["attack.name=ipm", "strategy.name=fedbuff"], r"attack\.name.*without rounds"),
        (["attack.name=scaling", "privacy.unit=example", "privacy.epsilon=8"], r"account"),
        (["attack.name=label-flip", "attack.source=1"], r"attack\.target"),
        (["attack.name=scalng"], "Did you mean 'scaling'"),
        (["attack.name=alie", "attack.scale=2"], r"attack\.scale.*no such key"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        config_of(*overrides)


@pytest.mark.parametrize("name", ["sign-flip", "scaling", "gaussian", "label-flip", "backdoor"])
def test_a_client_s_own_attack_goes_with_secure_sums_and_the_noise_of_a_server(name):
    config_of(f"attack.name={name}", "secure_sum.name=secagg")
    config_of(f"attack.name={name}", "privacy.unit=user", "privacy.epsilon=8")


def test_rows_that_were_anonymized_are_not_poisoned():
    with pytest.raises(ConfigError, match=r"attack\.name.*rows"):
        load("adult-anonymized", ["attack.name=label-flip"])
    load("adult-anonymized", ["attack.name=sign-flip"])
