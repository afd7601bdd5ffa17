"""Whatever stands in a file, an override or the environment: `ConfigError`, nothing else."""

from importlib import resources

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedsim import config as configuration
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError

RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DIGITS = (resources.files("fedsim") / "experiments" / "digits.toml").read_bytes()
bits = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"", b"=", b"[[", b"{", b"}", b'"', b"'''", b"inf", b"nan", b"1e999", b".",
                     b"\n", b"2020-01-01", b"true", b"\\u0000", b"9" * 5000, b"[" * 5000]),
)  # fmt: skip


def loads_or_is_refused(*arguments):
    """A refusal names at least one path and what is accepted there, and can be printed."""
    config, refusal = None, None
    try:
        config = configuration.load(*arguments)
    except ConfigError as error:
        refusal = error
    if refusal is None:
        assert isinstance(config, RunConfig)
    else:
        assert refusal.problems
        assert str(refusal)
        assert all(problem.path and problem.accepted for problem in refusal.problems)


@RELAXED
@given(st.lists(st.tuples(st.integers(0, len(DIGITS)), st.integers(0, 30), bits), max_size=4))
@example([(0, 0, b"a=" + b"{a=" * 3000)])
def test_a_damaged_file(tmp_path, damage):
    content = DIGITS
    for start, length, bit in damage:
        content = content[:start] + bit + content[start + length :]
    file = tmp_path / "damaged.toml"
    file.write_bytes(content)
    loads_or_is_refused(file, (), {})


paths = st.one_of(
    st.sampled_from([*PARTS, *(f"{section}.name" for section in PARTS), "rounds.count"]),
    st.sampled_from(["seed", "name", "metrics", "model.hidden", "model.args.x.y", "data.path"]),
    st.text(st.sampled_from("ab.=_ "), max_size=8),
)
texts = st.one_of(
    st.text(max_size=8),
    st.text(st.sampled_from("[]{}=,'\"1ae.-:"), max_size=10),
    st.sampled_from(["[" * 5000, "9" * 5000, "iid", "cnn", "a:b", "{name='iid'}", "inf", "\ud800"]),
)


@RELAXED
@given(st.lists(st.tuples(paths, texts), max_size=4))
def test_any_overrides(assignments):
    loads_or_is_refused("digits", [f"{path}={text}" for path, text in assignments], {})


@RELAXED
@given(st.dictionaries(paths, texts, max_size=4))
def test_any_environment(assignments):
    environ = {f"FEDSIM__{k.upper().replace('.', '__')}": text for k, text in assignments.items()}
    loads_or_is_refused("digits", (), environ)
