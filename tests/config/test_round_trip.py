"""Any configuration survives every form it is written in, and is what the schema allows."""

import json
import tomllib

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim import config as configuration
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError
from fedsim.fields import accepted, fields_of, fits
from fedsim.registry import load, names

NESTED = {"local-only"}  # holds another part; it is no section's choice but a mode


plain = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3), inner),
    max_leaves=5,
)
arguments = st.dictionaries(st.text("xyz", min_size=1, max_size=4), plain, max_size=3)


def values(annotation):
    if accepted(annotation) == "a table":
        return arguments
    return st.from_type(annotation).filter(lambda value: fits(annotation, value))


def some_fields(kind):
    """Some of a dataclass's fields, with any values that fit them."""
    fields = {key: values(annotation) for key, annotation in fields_of(kind).items()}
    return st.fixed_dictionaries({}, optional=fields)


user_models = st.builds(lambda args: {"name": "pkg.mod:build", "args": args}, arguments)


@st.composite
def parts(draw, section):
    group, default = PARTS[section]
    name = draw(st.sampled_from([n for n in names(group) if n not in NESTED]))
    fields = draw(some_fields(load(group, name)))
    return fields if name == default and draw(st.booleans()) else {"name": name, **fields}


@st.composite
def experiments(draw):
    kinds = fields_of(RunConfig)
    sections = {
        key: parts(key) if key in PARTS else some_fields(kind) if key in TABLES else values(kind)
        for key, kind in kinds.items()
    }
    sections["model"] |= user_models
    sections["metrics"] = st.lists(st.sampled_from(["accuracy", "auc", "f1"]), max_size=2)
    return draw(st.fixed_dictionaries({}, optional=sections))


TABLES = {"anonymization", "regularization", "rounds", "evaluation", "engine", "public"}


def without_unset(value):
    """TOML has no null; tuples are lists there."""
    if isinstance(value, dict):
        return {key: without_unset(item) for key, item in value.items() if item is not None}
    return [without_unset(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.hypothesis
def test_any_configuration_survives_every_form(tmp_path):
    survived = []

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(experiments())
    def survives(content):
        file = tmp_path / "x.toml"
        file.write_text(tomli_w.dumps(without_unset(content)), encoding="utf-8", newline="")
        try:
            config = configuration.load(file, (), {})
        except ConfigError:
            return  # each value is fine by itself, but some do not fit together
        written = configuration.to_dict(config)
        assert configuration.from_dict(written) == config
        assert configuration.from_dict(json.loads(json.dumps(written, allow_nan=False))) == config
        text = configuration.dump_toml(config)
        assert configuration.from_dict(tomllib.loads(text)) == config
        file.write_text(text, encoding="utf-8", newline="")
        assert configuration.load(file, (), {}) == config
        assert configuration.to_dict(configuration.from_dict(written)) == written
        survived.append(written)

    survives()
    assert len(survived) > 10


@pytest.mark.hypothesis
def test_the_schema_accepts_every_file_that_loads(schema):
    accepted = []

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(experiments())
    def accepts(content):
        content = without_unset(content)
        try:
            configuration.load(content, (), {})
        except ConfigError:
            return
        schema.validate(content)
        accepted.append(content)

    accepts()
    assert len(accepted) > 10


@pytest.mark.parametrize(
    "content",
    [
        {"partition": {"clients": 5}},
        {"partition": {"by": "hospital"}},
        {"data": {"path": "a.csv", "target": "y"}},
        {"data": {"name": "heart_disease"}},
        {"model": {"name": "a:b", "args": {"x": 1}}},
    ],
)
def test_the_schema_knows_which_part_is_meant(content, schema):
    configuration.load(content, (), {})
    schema.validate(content)


@pytest.mark.parametrize(
    "content",
    [
        {"roundz": {}},
        {"rounds": {"cohrt": 3}},
        {"partition": {"name": "iid", "alpha": 0.1}},
        {"partition": {"alpha": 0}},
        {"model": {"name": "cnnn"}},
        {"model": {"args": {}}},
        {"data": {"name": "digits", "path": "a.csv"}},
        {"metrics": "accuracy"},
    ],
)
def test_the_schema_refuses_what_is_refused(content, schema):
    with pytest.raises(ConfigError):
        configuration.load(content, (), {})
    assert not schema.is_valid(content)
