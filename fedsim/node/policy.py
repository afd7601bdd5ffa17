"""A node's policy: which experiments it takes part in. The node enforces it, nobody else.

`policy.toml` has no default for anything that lets data out: a policy that leaves such a key out,
or has one that is unknown, is no policy, and a node without a policy refuses everything.
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table

__all__ = ["EVERY", "Anonymized", "Policy", "policy_from_text", "read_policy", "template", "trial"]

UnitName = Literal["none", "user", "example", "local"]

EVERY = "*"  # in `columns`: whatever the file has
_TABLE = "anonymization"
_MOST_EPSILON = 1000.0


@dataclass(frozen=True, slots=True)
class Anonymized:
    """What an experiment's `[anonymization]` has to give, on this node's rows alone.

    `quasi`: columns that its schema may not call harmless: each is a quasi-identifier there, or is
    left out as a direct identifier.
    """

    k: Annotated[int, Ge(2)]
    quasi: tuple[str, ...]
    l: Annotated[float, Ge(1)] | None = None  # noqa: E741 - the literature's name
    t: Annotated[float, Gt(0), Le(1)] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What an approved experiment has to be like, and how much of the data it may see.

    `minimum_cohort`: the fewest clients in a sum; under masks it is counted by this node among
    those who signed, else it is what the experiment says. `units`: of privacy, "none" included.
    `maximum_epsilon`: of everything this node ever releases, the epsilons of all units added up,
    each at `maximum_delta`.
    `trust_sampling`: whether the server is believed to draw clients at random and to keep secret
    whom, without which nothing is gained by it. `columns`: the only ones that are read. Of
    `maximum_rows` the first ones in the file. `maximum_rounds`: how often one experiment is
    answered in all; `maximum_repeats`: how often the same round of it once more, after a crash.
    `user_code`: models "module:function" that are installed here and may run. `evaluation`: whether
    metrics on this node's rows are sent, in the clear. `public_data`: whether data sets that fedsim
    knows are trained on, instead of this node's file.
    """

    minimum_cohort: Annotated[int, Ge(1)]
    secure_aggregation: bool
    units: tuple[UnitName, ...]
    columns: tuple[str, ...]
    maximum_rows: Annotated[int, Ge(1)]
    maximum_rounds: Annotated[int, Ge(1)]
    maximum_epsilon: Annotated[float, Gt(0), Le(_MOST_EPSILON)] | None = None
    maximum_delta: Annotated[float, Gt(0), Lt(1)] | None = None
    trust_sampling: bool = False
    maximum_repeats: Annotated[int, Ge(0)] = 2
    user_code: tuple[str, ...] = ()
    evaluation: bool = False
    public_data: bool = False
    anonymization: Anonymized | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError` for settings that promise what they cannot keep."""
        problems = []
        if not self.units:
            accepted = f"at least one of {', '.join(get_args(UnitName))}"
            problems.append(Problem("policy.units", [], accepted))
        if set(self.units) - {"none"}:
            for key in ("maximum_epsilon", "maximum_delta"):
                if getattr(self, key) is None:
                    accepted = "set, where units has another than none: the node keeps a budget"
                    problems.append(Problem(f"policy.{key}", None, accepted))
        problems += [
            Problem("policy.user_code", name, 'a list of "module:function"')
            for name in self.user_code
            if ":" not in name
        ]
        if problems:
            raise ConfigError(problems)


def read_policy(path: Path) -> Policy:
    """Read a node's policy.

    Raises `ConfigError` with everything that is wrong with it, also where there is none: nothing is
    allowed then.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        accepted = f"a policy that can be read ({error.strerror}): without one all is refused"
        raise ConfigError([Problem("policy", str(path), accepted)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("policy", str(path), "text in UTF-8")]) from error
    try:
        return policy_from_text(text)
    except ConfigError as error:
        raise ConfigError([replace(p, source=str(path)) for p in error.problems]) from error


def policy_from_text(text: str) -> Policy:
    """Read the text of a policy. Raises `ConfigError` with everything that is wrong with it."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem("policy", "...", f"valid TOML ({error})")]) from error
    problems: list[Problem] = []
    anonymized = None
    if _TABLE in content:
        anonymized = read_table(f"policy.{_TABLE}", Anonymized, content.pop(_TABLE), problems)
    found = read_table("policy", Policy, content, problems)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.path))
    policy: Policy = replace(found, anonymization=anonymized)
    return policy


def template() -> str:
    """Return a policy to begin with: it allows little, and no column until somebody lists it."""
    return _TEMPLATE


def trial() -> str:
    """Return a policy for trying out on one machine: whatever was approved may run.

    >>> policy_from_text(trial()).units
    ('none', 'user', 'example', 'local')
    """
    return _TRIAL


_TEMPLATE = """\
# What may run on this node. The node enforces it: what is not allowed here is refused, whatever the
# server says, and the refusal is in audit.jsonl. A key that is unknown, or missing here, makes the
# node refuse everything. Who may approve experiments is in approvers.toml.
# Try it: fedsim node check FOLDER EXPERIMENT

# The server sees only sums over clients, by masks, of at least so many clients.
secure_aggregation = true
minimum_cohort = 5

# Differential privacy. "example" hides each row, by noise that this node adds; "local" hides all of
# this node's data the same way; "user" hides this node among the others, by noise that clients add
# together or the server adds; "none" accepts experiments without any.
units = ["example", "local"]
# Everything that is ever released from this node, by all experiments; units add up:
maximum_epsilon = 3.0
maximum_delta = 1e-5
# Whether the server is believed to draw clients at random, and to tell nobody whom. If not, epsilon
# is counted as if everybody knew that this node took part.
trust_sampling = false

# The columns that may be read, the target included; nothing else of the file is. Now: none.
columns = []
# Of a longer file, the first so many rows.
maximum_rows = 100000

# How often one experiment is answered in all, and how often the same round once more.
maximum_rounds = 500
maximum_repeats = 2

# Models that are code of users, "module:function", installed on this node by its owner.
user_code = []
# Whether metrics on this node's held-out rows are sent in the clear.
evaluation = false
# Whether experiments on public data sets, without this node's file, may run.
public_data = false

# Uncomment to refuse experiments that train on raw records.
# [anonymization]
# k = 5
# quasi = ["age", "sex"]   # columns that must be treated as quasi-identifiers
# l = 2
# t = 0.4
"""

_TRIAL = """\
# For trying out on one machine: whatever an approver signed may run. Not for data of people.
secure_aggregation = false
minimum_cohort = 1
units = ["none", "user", "example", "local"]
maximum_epsilon = 1000.0
maximum_delta = 0.9  # of few nodes, an experiment's default is large
trust_sampling = true
columns = ["*"]
maximum_rows = 1000000000
maximum_rounds = 1000000
maximum_repeats = 1000
evaluation = true
public_data = true
"""
