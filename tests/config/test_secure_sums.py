"""What a secure sum goes with, and what is refused with the nearest thing that does."""

import pytest

from fedsim import config as configuration
from fedsim.errors import ConfigError

SUM = ["secure_sum.name=secagg", "evaluation.federated_every=0", "secure_sum.adversaries=0"]


def refused(*overrides, experiment="digits"):
    with pytest.raises(ConfigError) as error:
        configuration.load(experiment, [*SUM, *overrides], {})
    return {problem.path: str(problem) for problem in error.value.problems}


@pytest.mark.parametrize("name", ["plain", "ideal", "secagg", "secagg+", "ckks"])
def test_every_secure_sum_loads_with_what_needs_only_sums(name):
    for strategy in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"):
        overrides = [*SUM, f"secure_sum.name={name}", f"strategy.name={strategy}"]
        assert configuration.load("digits", overrides, {}).secure_sum.name == name
    for extra in ("local.name=fedprox", "transform.name=clip", "secure_sum.bits=20"):
        configuration.load("digits", [*SUM, f"secure_sum.name={name}", extra], {})


def test_a_plain_sum_leaves_the_other_settings_alone():
    """So that one word on the command line runs an experiment for comparison."""
    config = configuration.load("digits", ["secure_sum.bits=20", "secure_sum.max_abs=2"], {})
    assert config.secure_sum.name == "plain"


@pytest.mark.parametrize(
    ("override", "path", "reason"),
    [
        ("strategy={name='flower', strategy='Krum'}", "strategy.name", "needs only the sum"),
        ("transform.name=topk", "transform.name", "codes add up under masks"),
        ("mode=pooled", "mode", "secure_sum.name=plain for the baseline"),
        ("mode=local-only", "mode", "secure_sum.name=plain for the baseline"),
        ("engine.tier=low-rank", "engine.tier", "vectorized"),
        ("evaluation.federated_every=3", "evaluation.federated_every", "still tests the model"),
        ("rounds.cohort=2", "rounds.cohort", "secure_sum.min_cohort = 3"),
        ("secure_sum.min_cohort=21", "rounds.cohort", "secure_sum.min_cohort = 21"),
        ("secure_sum.bits=10", "secure_sum.bits", "one of 8, 12"),
        ("secure_sum.threshold=0.5", "secure_sum.threshold", "> 0.5"),
        ("secure_sum.threshold=1.0", "secure_sum.threshold", "< 1"),
        ("secure_sum.min_cohort=1", "secure_sum.min_cohort", ">= 2"),
        ("rounds.dropout=1.0", "rounds.dropout", "< 1"),
    ],
)
def test_what_cannot_be_summed_in_secret_is_refused(override, path, reason):
    assert reason in refused(override)[path]


def test_a_cohort_that_chance_may_make_too_small_is_refused():
    """Ten are expected; five standard deviations below, nobody is left."""
    private = ["privacy.unit=user", "privacy.noise_multiplier=1", "rounds.cohort=10"]
    assert "however few" in refused(*private)["rounds.cohort"]
    configuration.load("digits", [*SUM, *private, "privacy.sampling=fixed"], {})


def test_the_table_is_explained():
    (found,) = configuration.explain("secure_sum")
    assert found["summary"].startswith("Secure sums")
    assert {field["name"] for field in found["fields"]} >= {"name", "bits", "threshold", "profile"}
    with pytest.raises(ConfigError, match="secure_sum"):
        configuration.explain("secure_sums")
