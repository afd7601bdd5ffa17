"""What a policy says to an experiment: every reason against it, found before any data is touched.

`decide` is pure. It judges the experiment that somebody approved, and what the node knows itself;
what the server says is no argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedsim import cut_messages, registry
from fedsim.config import schema_of
from fedsim.config.schema import RunConfig
from fedsim.data import Declared, declared_of
from fedsim.errors import ConfigError
from fedsim.models import UserModel
from fedsim.node.policy import EVERY, Anonymized, Policy

__all__ = ["PUBLIC", "Facts", "asked_columns", "decide"]

#: Data sets that say nothing of anybody here: their files are published and pinned by hash.
PUBLIC = (
    "adult",
    "breast-cancer",
    "diabetes",
    "digits",
    "fashion-mnist",
    "heart-disease",
    "mnist",
    "shakespeare",
    "synthetic",
)
_MASKED = ("secagg", "secagg+")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node knows by itself: whether it has rows of its own, which client it is of how many.

    `kind`: of the message that asks, "" where only the experiment is judged.
    """

    has_own_data: bool
    client: int = 0
    clients: int | None = None
    kind: str = ""


def decide(policy: Policy, config: RunConfig, facts: Facts) -> list[str]:
    """Return why a node does not take part in an experiment, in full; nothing where it does."""
    return [
        *_of_data(policy, config, facts),
        *_of_code(policy, config),
        *_of_rounds(policy, config),
        *_of_sums(policy, config),
        *_of_privacy(policy, config),
        *_of_anonymization(policy.anonymization, config),
        *_of_kind(policy, config, facts.kind),
    ]


def asked_columns(config: RunConfig, declared: Declared) -> tuple[str, ...]:
    """Return every column of a node's file that an experiment has read, ascending."""
    anonymization = config.anonymization
    features = declared.columns if anonymization.name == "none" else anonymization.columns
    return tuple(sorted({*features, config.data.target}))


def _of_data(policy: Policy, config: RunConfig, facts: Facts) -> Iterator[str]:
    name = registry.name_of("data", config.data)
    if name in PUBLIC:
        if not policy.public_data:
            yield f"data.name = {name!r}: public_data = false, only this node's rows are trained on"
    elif not facts.has_own_data:
        yield f"data.name = {name!r}: node.toml of this node names no file of its own rows"
    elif name != "table":
        yield f"data.name = {name!r}: a node's own rows are a table"
    else:
        yield from _of_table(policy, config, facts)


def _of_table(policy: Policy, config: RunConfig, facts: Facts) -> Iterator[str]:
    try:
        declared = declared_of(config.data)
    except ConfigError as error:
        yield from (str(problem) for problem in error.problems)
        return
    if declared is None:
        yield "data.declared: it is empty, and what all clients share must not come from rows"
        return
    yield from _of_columns(policy, config, declared)
    count = len(declared.clients)
    if facts.clients is not None and count != facts.clients:
        yield f"data.declared.clients: it has {count}, this node is one of {facts.clients}"
    if facts.client >= count:
        yield f"data.declared.clients: this node is client {facts.client}, there is none"


def _of_columns(policy: Policy, config: RunConfig, declared: Declared) -> Iterator[str]:
    asked = asked_columns(config, declared)
    hidden = [] if EVERY in policy.columns else [c for c in asked if c not in policy.columns]
    if hidden:
        yield f"data: columns {', '.join(hidden)} are asked for; columns has not got them"


def _of_code(policy: Policy, config: RunConfig) -> Iterator[str]:
    if config.mode == "pooled":
        yield "mode = 'pooled': a node does not give its rows away"
    if isinstance(config.model, UserModel) and config.model.name not in policy.user_code:
        allowed = ", ".join(policy.user_code) or "none"
        yield f"model.name = {config.model.name!r} is code of a user; user_code allows: {allowed}"


def _of_rounds(policy: Policy, config: RunConfig) -> Iterator[str]:
    rounds = config.rounds
    if rounds.count > policy.maximum_rounds:
        yield f"rounds.count = {rounds.count}: maximum_rounds = {policy.maximum_rounds}"
    if rounds.cohort is not None and rounds.cohort < policy.minimum_cohort:
        yield f"rounds.cohort = {rounds.cohort}: minimum_cohort = {policy.minimum_cohort}"


def _of_sums(policy: Policy, config: RunConfig) -> Iterator[str]:
    secure = config.secure_sum
    if policy.secure_aggregation and secure.name not in _MASKED:
        yield f"secure_sum.name = {secure.name!r}: secure_aggregation = true takes masks"
    elif secure.name == "ideal":
        yield "secure_sum.name = 'ideal': it simulates masks and protects nothing"
    if secure.name in _MASKED and secure.min_cohort < policy.minimum_cohort:
        yield f"secure_sum.min_cohort = {secure.min_cohort}: minimum_cohort is " + str(
            policy.minimum_cohort
        )


def _of_privacy(policy: Policy, config: RunConfig) -> Iterator[str]:
    privacy = config.privacy
    if privacy.unit not in policy.units:
        yield f"privacy.unit = {privacy.unit!r}: units = {', '.join(policy.units)}"
    if privacy.unit == "none":
        return
    if privacy.noise != "secret":
        yield "privacy.noise = 'seeded': who knows the seed takes the noise off"
    if privacy.clipping == "adaptive":
        yield "privacy.clipping = 'adaptive': the server would say what updates are clipped to"
    for key, value, most in (
        ("epsilon", privacy.epsilon, policy.maximum_epsilon),
        ("delta", privacy.delta, policy.maximum_delta),
    ):
        if value is not None and most is not None and value > most:
            yield f"privacy.{key} = {value:g}: maximum_{key} = {most:g}"


def _of_anonymization(wanted: Anonymized | None, config: RunConfig) -> Iterator[str]:
    if wanted is None:
        return
    given = config.anonymization
    if given.name in ("none", "raw"):
        yield f"anonymization.name = {given.name!r}: this node lets no raw records be trained on"
        return
    if given.k < wanted.k:
        yield f"anonymization.k = {given.k}: k = {wanted.k}"
    if given.cut == "shared" and given.k_over != "client":
        yield "anonymization.k_over = 'federation': k has to hold on this node's rows alone"
    if wanted.l is not None and (given.diversity == "none" or given.l < wanted.l):
        yield f"anonymization.diversity = {given.diversity!r}, l = {given.l:g}: l = {wanted.l:g}"
    if wanted.t is not None and (given.t is None or given.t > wanted.t):
        yield f"anonymization.t = {given.t}: t = {wanted.t:g}"
    columns = schema_of(given).columns
    for name in wanted.quasi:
        if name in columns and columns[name].role not in ("quasi", "direct"):
            yield f"anonymization.columns.{name}.role = {columns[name].role!r}: quasi has it"


def _of_kind(policy: Policy, config: RunConfig, kind: str) -> Iterator[str]:
    if kind == "evaluate" and not policy.evaluation:
        yield "evaluate: evaluation = false, no metrics on this node's rows are sent"
    if policy.secure_aggregation and kind in ("train", cut_messages.COUNTS):
        yield f"{kind}: secure_aggregation = true, this node answers under masks only"
    if kind in cut_messages.KINDS and config.anonymization.cut == "local":
        yield f"{kind}: the experiment has no cut that clients agree on"
