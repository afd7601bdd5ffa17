"""Lists of parts say what the configuration check says."""

import pytest

from fedsim import config as configuration
from fedsim import registry
from fedsim.config.schema import PARTS
from fedsim.errors import ConfigError


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_part_is_in_its_list_with_a_line(group):
    found = configuration.catalogue(group)
    assert [part["name"] for part in found] == list(registry.names(group))
    assert all(part["summary"].endswith((".", "?")) for part in found)
    assert all(len(part["summary"]) < 200 for part in found)


@pytest.mark.parametrize(
    ("group", "name", "refused"),
    [
        ("strategies", "fedavg", set()),
        ("strategies", "krum", {"secure_sum", "user", "folding"}),
        ("strategies", "scaffold", {"user", "example", "local"}),
        ("clients", "sgd", set()),
        ("clients", "local-only", {"secure_sum", "user", "example", "local", "vectorized"}),
        ("transforms", "clip", {"user", "local"}),
        ("models", "mlp", None),
    ],
)
def test_what_a_part_goes_with(group, name, refused):
    flags = configuration.legality(group, name)
    if refused is None:
        assert flags == {}
        return
    assert {flag for flag, found in flags.items() if not found.is_legal} == refused
    assert all(bool(found.reason) != found.is_legal for found in flags.values())


@pytest.mark.parametrize("name", registry.names("strategies"))
def test_a_flag_is_what_loading_an_experiment_says(name):
    halves = getattr(registry.load("strategies", name), "goes_with", ())
    base = configuration.experiment_of("strategies", name)
    settings = ["evaluation.federated_every=0", f"strategy.name={name}"]
    settings += [f"local.name={halves[0]}"] if halves else []
    settings += ["public.name=held-out"] if "public" in base else []
    flags = configuration.legality("strategies", name)
    for flag, more in {
        "secure_sum": ["secure_sum.name=secagg"],
        "user": ["privacy.unit=user", "privacy.noise_multiplier=1"],
    }.items():
        if flags[flag].is_legal:
            configuration.load("digits", [*settings, *more], {})
        else:
            with pytest.raises(ConfigError):
                configuration.load("digits", [*settings, *more], {})


def test_explain_says_the_same_of_a_part():
    assert PARTS["strategy"][0] == "strategies"
    (krum,) = configuration.explain("strategies.krum")
    assert krum["legality"]["secure_sum"].startswith("no: strategy.name must be")
    assert krum["legality"]["local"] == "yes"
