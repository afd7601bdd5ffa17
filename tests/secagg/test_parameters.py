import math
from dataclasses import asdict, replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.secagg import graph
from fedsim.secagg.parameters import (
    BITS,
    PHASES,
    Neighbourhood,
    Parameters,
    Policy,
    least_survivors,
    required,
    shape,
)
from fedsim.secagg.wire import WireError

STRONG = Parameters(
    run="run",
    round=3,
    length=1000,
    bits=20,
    graph="full",
    threshold=2 / 3,
    adversaries=0.1,
    dropouts=0.1,
    semi_malicious=True,
    min_cohort=3,
    profile="standard",
    nonce=bytes(range(32)),
)

parameters = st.builds(
    Parameters,
    run=st.text(max_size=200),
    round=st.integers(0, 2**53),
    length=st.integers(1, 2**40),
    bits=st.sampled_from(BITS),
    graph=st.sampled_from(["full", "sparse"]),
    threshold=st.floats(0.5, 1, exclude_min=True, exclude_max=True),
    adversaries=st.floats(0, 0.5, exclude_max=True),
    dropouts=st.floats(0, 0.5, exclude_max=True),
    semi_malicious=st.booleans(),
    min_cohort=st.integers(2, 100_000),
    profile=st.sampled_from(["standard", "fips"]),
    nonce=st.binary(min_size=32, max_size=32),
)


@given(parameters)
def test_parameters_are_read_as_they_were_written(one):
    assert Parameters.decode(one.encode()) == one


@given(parameters, parameters)
def test_different_parameters_are_written_differently(one, two):
    assert (one.encode() == two.encode()) == (one == two)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("run", "x" * 201, "at most 200 characters"),
        ("run", None, "text"),
        ("round", -1, "integer from 0"),
        ("round", 1.0, "integer from 0"),
        ("length", 0, "integer from 1"),
        ("bits", 10, "one of"),
        ("bits", 64, "integer from 8 to 32"),
        ("graph", "ring", "full or sparse"),
        ("threshold", 0.5, "more than 1/2, less than 1"),
        ("threshold", 1.0, "more than 1/2, less than 1"),
        ("threshold", math.nan, "not a finite float"),
        ("threshold", 1, "not a finite float"),
        ("adversaries", 0.5, "0 to less than 1/2"),
        ("dropouts", -0.1, "0 to less than 1/2"),
        ("semi_malicious", 1, "neither true nor false"),
        ("min_cohort", 1, "integer from 2"),
        ("profile", "none", "standard or fips"),
        ("nonce", bytes(31), "32 bytes"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(field, value, accepted):
    with pytest.raises(ValueError, match=accepted) as refused:
        replace(STRONG, **{field: value})
    assert str(refused.value).startswith(f"{field} = {value!r}: ")
    written = msgpack.packb({"kind": "Parameters", **asdict(STRONG), field: value})
    with pytest.raises(WireError, match=field):
        Parameters.decode(written)


def test_only_the_canonical_form_is_read():
    content = msgpack.unpackb(STRONG.encode())
    turned = dict(reversed(content.items()))
    with pytest.raises(WireError, match="canonical"):
        Parameters.decode(msgpack.packb(turned))


@given(st.floats(0.5, 1, exclude_min=True, exclude_max=True), st.integers(2, 500))
def test_two_quorums_of_the_full_graph_share_a_client(threshold, n):
    size = shape(replace(STRONG, threshold=threshold), n)
    assert size.degree == n - 1
    assert size.own == 1
    assert n < 2 * size.threshold <= 2 * n


@pytest.mark.parametrize(("n", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (99, 67), (100, 67)])
def test_the_default_threshold_is_that_of_bonawitz_2017(n, threshold):
    """Section 6.2: floor(2n / 3) + 1."""
    assert shape(STRONG, n).threshold == threshold == 2 * n // 3 + 1


def test_a_sparse_graph_is_the_planned_one():
    sparse = replace(STRONG, graph="sparse")
    for n in (100, 1000):
        plan = graph.plan(n, adversaries=0.1, dropouts=0.1, semi_malicious=True)
        assert shape(sparse, n) == Neighbourhood(plan.degree, plan.threshold, own=0)
    # Bell et al. 2020 with sigma = 40, eta = 20
    assert shape(sparse, 1000)[:2] == (96, 67)


def test_few_clients_or_many_adversaries_get_the_full_graph():
    sparse = replace(STRONG, graph="sparse")
    assert shape(sparse, 59) == shape(STRONG, 59)
    hopeless = replace(sparse, adversaries=0.49, dropouts=0.49)
    assert shape(hopeless, 100) == shape(STRONG, 100)


@given(parameters, st.integers(2, 300))
def test_what_is_required_never_falls_below_a_majority(one, n):
    counts = [required(one, n, phase) for phase in PHASES]
    assert counts[0] == one.min_cohort
    assert counts[1] == counts[2] == least_survivors(one, n) >= counts[3] == counts[4] > n / 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_cohort", 1),
        ("min_threshold", 0.5),
        ("min_threshold", 1.0),
        ("max_sessions", 0),
        ("min_adversaries", 0.5),
        ("profiles", ()),
        ("profiles", ("none",)),
        ("ttl_s", 0),
    ],
)
def test_a_policy_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} = "):
        Policy(**{field: value})


def test_a_policy_names_everything_that_is_too_weak():
    assert Policy().refusal(STRONG) == ""
    weak = replace(STRONG, threshold=0.6, min_cohort=2, graph="sparse", semi_malicious=False)
    strict = Policy(min_cohort=10, min_adversaries=0.2, profiles=("fips",))
    assert strict.refusal(weak).count("; ") == 4
    assert Policy(min_cohort=2, min_threshold=0.6, semi_malicious=False).refusal(weak) == ""


def test_a_full_graph_needs_no_assumption_on_adversaries():
    assert Policy().refusal(replace(STRONG, adversaries=0.0, semi_malicious=False)) == ""
