"""Policies: read whole or refused, never half; and a start that allows little."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.node.policy import Policy, policy_from_text, read_policy, template, trial

LEAST = {
    "minimum_cohort": 5,
    "secure_aggregation": True,
    "units": ["none"],
    "columns": ["age"],
    "maximum_rows": 10,
    "maximum_rounds": 10,
}


def text(**changes):
    content = {key: value for key, value in {**LEAST, **changes}.items() if value is not None}
    return tomli_w.dumps(content)


def test_the_template_allows_nothing_until_somebody_lists_a_column():
    policy = policy_from_text(template())
    assert policy.secure_aggregation
    assert policy.columns == policy.user_code == ()
    assert not any((policy.trust_sampling, policy.evaluation, policy.public_data))
    assert "none" not in policy.units


def test_the_examples_in_the_template_are_right():
    uncommented = template().replace("# [anon", "[anon").replace("# k =", "k =")
    for key in ("quasi", "l", "t"):
        uncommented = uncommented.replace(f"# {key} =", f"{key} =")
    found = policy_from_text(uncommented).anonymization
    assert (found.k, found.l, found.t, found.quasi) == (5, 2, 0.4, ("age", "sex"))


@pytest.mark.parametrize("key", LEAST)
def test_what_lets_data_out_has_no_default(key):
    with pytest.raises(ConfigError, match=rf"policy\.{key} = None: .*no default"):
        policy_from_text(text(**{key: None}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"maximum_epsilom": 1.0}, r"policy\.maximum_epsilom = 1.0: no such key.*Did you mean"),
        ({"secure_aggregation": "yes"}, r"policy\.secure_aggregation = 'yes': true or false"),
        ({"minimum_cohort": 0}, r"policy\.minimum_cohort = 0: an integer >= 1"),
        ({"units": []}, r"policy\.units = \[\]"),
        ({"units": ["record"]}, r"policy\.units = \['record'\]"),
        ({"units": ["example"]}, r"policy\.maximum_epsilon = None"),
        ({"maximum_epsilon": float("nan")}, r"policy\.maximum_epsilon = nan"),
        ({"user_code": ["mine"]}, r"policy\.user_code = 'mine'"),
        ({"anonymization": {"k": 5}}, r"policy\.anonymization\.quasi = None"),
        ({"anonymization": {"k": 5, "quasi": [], "kk": 1}}, r"policy\.anonymization\.kk = 1"),
        ({"anonymisation": {"k": 5}}, r"policy\.anonymisation.*Did you mean 'anonymization'"),
    ],
)
def test_what_is_wrong_is_said(changes, match):
    with pytest.raises(ConfigError, match=match):
        policy_from_text(text(**changes))


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        policy_from_text(text(minimum_cohort=0, maximum_rows=None, extra=1, anonymization={"k": 1}))
    assert [problem.path for problem in caught.value.problems] == [
        "policy.anonymization.k",
        "policy.anonymization.quasi",
        "policy.extra",
        "policy.maximum_rows",
        "policy.minimum_cohort",
    ]


def test_no_policy_is_none(tmp_path):
    with pytest.raises(ConfigError, match="without one all is refused"):
        read_policy(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_policy(tmp_path / "policy.toml")


VALUES = st.recursive(
    st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = st.sampled_from([*Policy.__slots__, "anonymisation", "k", ""]) | st.text(max_size=4)


@given(st.dictionaries(KEYS, VALUES, max_size=12) | st.just({}), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_toml_is_a_whole_policy_or_refused(content, is_near):
    content = {**(LEAST if is_near else {}), **content}
    try:
        policy = policy_from_text(tomli_w.dumps(content))
    except ConfigError:
        return
    for key, value in content.items():  # nothing that was said is lost
        found = getattr(policy, key)
        assert key == "anonymization" or found == (tuple(value) if type(value) is list else value)
    assert LEAST.keys() <= content.keys()


@given(st.text(max_size=60) | st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_whole_policy_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError):
            read_policy(path)


def test_a_policy_cut_off_anywhere_is_refused_or_lacks_nothing_that_protects():
    whole = policy_from_text(template())
    for cut in range(0, len(template()), 7):
        try:
            found = policy_from_text(template()[:cut])
        except ConfigError:
            continue
        assert found.maximum_rounds <= whole.maximum_rounds  # the last number may have lost a digit
        assert replace(found, maximum_rounds=whole.maximum_rounds) == whole


def test_the_trial_policy_says_what_it_is():
    assert "Not for data of people" in trial()
    assert policy_from_text(trial()).public_data
