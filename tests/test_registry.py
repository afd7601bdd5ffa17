"""Parts are found by file name, and packages that somebody installs add theirs."""

import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import registry
from fedsim.errors import ConfigError

PARTS = [(group, name) for group in registry.GROUPS for name in registry.names(group)]


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_every_file_is_a_part_that_knows_its_name(group, name):
    kind = registry.load(group, name)
    assert kind.__name__.lower() == name.replace("-", "")
    assert registry.load(group, name.replace("-", "_")) is kind
    assert registry.name_of(group, kind.__new__(kind)) == name


def test_what_is_no_part_is_not_listed():
    assert "app" not in registry.names("clients")
    assert "partition" not in registry.names("data")  # a package
    for group in registry.GROUPS:
        assert registry.names(group), group
        assert not any(name.startswith(("_", "-")) for name in registry.names(group))
        assert list(registry.names(group)) == sorted(set(registry.names(group)))


def test_an_unknown_part_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError) as info:
        registry.load("strategies", "fedagv")
    (problem,) = info.value.problems
    assert problem.hint == "Did you mean 'fedavg'?"
    assert "fedadam" in problem.accepted
    with pytest.raises(LookupError, match="not registered"):
        registry.name_of("strategies", object())


@given(st.text(max_size=20))
def test_no_text_loads_what_is_not_listed(name):
    if name.replace("_", "-") not in registry.names("strategies"):
        with pytest.raises(ConfigError):
            registry.load("strategies", name)


def test_suggestions():
    assert registry.suggest("cohrt", ["count", "cohort"]) == "Did you mean 'cohort'?"
    assert registry.suggest("xyz", ["count", "cohort"]) == ""
    assert registry.suggest("1", [1, 2]) == "Did you mean '1'?"


@pytest.fixture
def installed(tmp_path):
    """Install a package with entry points; return a function that runs Python beside it."""
    (tmp_path / "theirs.py").write_text(
        textwrap.dedent('''
            """Half: half of the mean update.

            Nobody, 1999.
            """
            from dataclasses import dataclass
            from typing import Annotated, ClassVar
            from annotated_types import Gt

            @dataclass(frozen=True)
            class HalfStep:
                """Steps half as far."""
                lr: Annotated[float, Gt(0)] = 0.5
                needs: ClassVar = "sum"

            not_a_class = 3
        ''')
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedsim.strategies]\nhalf = theirs:HalfStep\nwrong = theirs:not_a_class\n"
        "gone = no_such_module:X\n"
    )

    def run(code):
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_part_of_an_installed_package_is_one_like_ours(installed):
    done = installed("""
        from fedsim import config, registry
        from fedsim.errors import ConfigError
        assert "half" in registry.names("strategies") and "fedavg" in registry.names("strategies")
        found = config.load("digits", ["strategy.name=half", "strategy.lr=0.25"], {})
        assert found.strategy.lr == 0.25
        plain = config.to_dict(found)
        assert plain["strategy"] == {"name": "half", "lr": 0.25}
        assert config.from_dict(plain) == found
        (part,) = config.explain("half")
        assert part["citation"] == "Nobody, 1999." and part["file"].endswith("theirs.py")
        try:
            config.load("digits", ["strategy.name=half", "strategy.lr=0"], {})
        except ConfigError as error:
            print(error)
    """)
    assert done.returncode == 0, done.stderr
    assert "strategy.lr = 0: a number > 0" in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"), [("wrong", "must be a dataclass"), ("gone", "no_such")]
)
def test_a_broken_part_of_an_installed_package_harms_nobody_else(installed, name, reason):
    done = installed(f"""
        from fedsim import config
        from fedsim.errors import ConfigError
        config.load("digits", ["strategy.name=fedadam"], {{}})
        try:
            config.load("digits", ["strategy.name=fedadam", "strategy.beta=1"], {{}})
        except ConfigError as error:
            assert "beta1" in str(error)
        config.json_schema()
        try:
            config.load("digits", ["strategy.name={name}"], {{}})
        except ConfigError as error:
            print(error)
    """)
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout
    assert "added by theirs" in done.stdout
