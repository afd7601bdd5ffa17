"""The guard of a node: between a message of the server and anything that is done for it.

Policy, signature and ledger come before work. What the server says is compared with what the node
knows: the experiment that was signed, its own count of rounds, its own rows, the number format and
the learning rate that it computes itself. Whatever does not fit is refused: the reason goes to the
server and into the audit log, no value of the data to either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsim import ckks_messages, cut_messages, messages, ring, secure_messages, spending
from fedsim import data as datasets
from fedsim.clients._secure_sum import cut_sessions
from fedsim.config.schema import RunConfig
from fedsim.data import OwnRows
from fedsim.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    FedsimError,
    LedgerError,
    MissingDataError,
    SetupError,
)
from fedsim.federation import Federation, Places, from_text, to_text
from fedsim.node.account import Account
from fedsim.node.answers import Answers
from fedsim.node.approval import (
    Approver,
    RefusedError,
    approver_of,
    experiment_sha256,
    read_approvers,
)
from fedsim.node.audit import AuditLog, Record, now_text
from fedsim.node.experiment import read_experiment
from fedsim.node.folder import NodeFolder
from fedsim.node.policy import Policy, read_policy
from fedsim.node.rules import Facts, decide
from fedsim.rounds import number_format

__all__ = ["Admitted", "Request", "admit", "answered", "failed"]

_EVALUATE, _CUT = messages.EVALUATE, "cut"
#: Messages for which local rows are trained on.
_TRAINING = (messages.TRAIN, secure_messages.MASKED, ckks_messages.ENCRYPTED)
#: Messages for which local rows are counted, to agree on a cut.
_COUNTING = (cut_messages.MASKED, cut_messages.COUNTS)
_KNOWN = {
    "query",
    _EVALUATE,
    *_TRAINING,
    *secure_messages.KINDS.values(),
    *ckks_messages.KINDS,
    *cut_messages.KINDS,
}
#: What the server is told of errors whose texts may say more than it may know.
_QUIET: tuple[tuple[type[FedsimError], str], ...] = (
    (MissingDataError, "this node's own rows cannot be read"),
    (DataError, "this node's own rows are not what the experiment declares"),
    (ConfigError, "this node's policy, approvers or settings, or the experiment, are not valid"),
    (LedgerError, "this node's own records are broken: it answers nothing"),
    (SetupError, "this node cannot keep its own records: it answers nothing"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a node is asked, as it came: nothing of it is believed yet.

    `order`: what to work on, where the message has one. `client`, `clients`: which one this node is
    of how many, by its own node config.
    """

    kind: str
    run: str
    text: str
    signature: str
    client: int
    clients: int | None = None
    order: messages.Train | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that is allowed: the experiment's text that the client app works on, how the node
    wants secure sums, and the record to end.
    """

    text: str
    node_config: Mapping[str, Any]
    record: Record
    folder: NodeFolder


@dataclass(slots=True)
class _Known:
    """What is known of a request so far, for its record."""

    experiment: str
    approver: str = ""
    order: str = ""
    rows: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def admit(root: Path, request: Request, node_config: Mapping[str, Any] | None = None) -> Admitted:
    """Let a request pass, or raise `RefusedError`, `BudgetExceededError` or `SetupError`.

    Before it returns, what the answer will have released is in the ledger, and the request is in
    the audit log; a refusal is too.
    """
    folder, time = NodeFolder(root), now_text()
    log = AuditLog(folder.audit)
    known = _Known(experiment_sha256(request.text))

    def record(decision: Any, reason: str = "") -> Record:
        number = request.order.round if request.order else None
        return Record(
            time=time,
            run=request.run,
            experiment=known.experiment,
            approver=known.approver,
            kind=request.kind,
            round=number,
            decision=decision,
            reason=reason,
            order=known.order,
            rows=known.rows,
        )

    try:
        text, policy, config = _judged(folder, request, known, time, dict(node_config or {}))
    except FedsimError as error:
        log.add(record("refused", str(error)))
        raise _told(error) from None
    except Exception as error:
        log.add(record("refused", f"{type(error).__name__} before any work"))
        raise RefusedError("the request cannot be read") from None
    allowed = record("allowed")
    log.add(allowed)
    return Admitted(text, _secure(folder, policy, config, node_config or {}), allowed, folder)


def answered(admitted: Admitted, sent_bytes: int) -> None:
    """Write down what was sent for a request, before it is."""
    AuditLog(admitted.folder.audit).add(
        replace(admitted.record, time=now_text(), decision="answered", sent_bytes=sent_bytes)
    )


def failed(admitted: Admitted, reason: str) -> None:
    """Write down that a request had no answer."""
    AuditLog(admitted.folder.audit).add(
        replace(admitted.record, time=now_text(), decision="failed", reason=reason)
    )


def _judged(
    folder: NodeFolder,
    request: Request,
    known: _Known,
    time: str,
    node_config: Mapping[str, Any],
) -> tuple[str, Policy, RunConfig]:
    """Return the text to work on, the policy and the experiment; raise for whatever is refused."""
    policy = read_policy(folder.policy)
    approver = _approved(folder, request)
    known.approver = approver.name
    if request.kind not in _KNOWN:
        raise RefusedError(f"messages of kind {request.kind!r} are not known to this node")
    config = read_experiment(request.text)
    own = folder.own_data()
    facts = Facts(own is not None, request.client, request.clients, request.kind)
    _refuse(decide(policy, config, facts))
    if request.order is None:
        if request.kind in (*_TRAINING, _EVALUATE):
            raise RefusedError(f"{request.kind}: there is nothing to work on in it")
        text = _text(folder, policy, config, request, node_config)
        if request.kind in _COUNTING:
            known.rows = _rows(from_text(text), request)
            _count_levels(folder, policy, request, known.experiment, time)
        return text, policy, config
    known.order = messages.hash_of(request.order).hex()
    text = _text(folder, policy, config, request, node_config)
    federation = _settled(text)
    config = replace(
        config, privacy=federation.config.privacy, secure_sum=federation.config.secure_sum
    )
    _refuse(decide(policy, config, facts))
    _must_be_ordered(federation, request)
    known.rows = _rows(federation, request)
    _count(folder, policy, federation, request, known.experiment, time)
    return _text(folder, policy, config, request, node_config), policy, config


def _approved(folder: NodeFolder, request: Request) -> Approver:
    approvers = read_approvers(folder.approvers)
    return approver_of(request.text, request.signature, approvers, datetime.now(UTC))


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise RefusedError("; ".join(reasons))


def _text(
    folder: NodeFolder,
    policy: Policy,
    config: RunConfig,
    request: Request,
    node_config: Mapping[str, Any],
) -> str:
    """Return the experiment as it is run here: with this node's places, and nobody else's."""
    own = folder.own_data()
    data_dir = str(node_config.get("data-dir") or datasets.default_data_dir())
    code = (str(folder.code.absolute()),) if policy.user_code else ()
    is_own = own is not None and datasets.declared_of(config.data) is not None
    rows = OwnRows(own.path, request.client, policy.maximum_rows) if own and is_own else None
    return to_text(config, Places(data_dir=data_dir, code=code, own=rows))


@lru_cache(maxsize=2)
def _settled(text: str) -> Federation:
    return spending.settled(from_text(text))


def _must_be_ordered(federation: Federation, request: Request) -> None:
    """Raise `RefusedError` for an order that does not follow from the experiment."""
    order, config = request.order, federation.config
    assert order is not None
    if not 1 <= order.round <= config.rounds.count:
        raise RefusedError(f"round {order.round}: the experiment has 1 to {config.rounds.count}")
    if order.lr_factor != federation.lr_factor(order.round):
        raise RefusedError(
            f"lr-factor = {order.lr_factor}: round {order.round} of the experiment has "
            f"{federation.lr_factor(order.round)}"
        )
    if order.model.numel() != federation.initial.numel():
        raise RefusedError(
            f"a model of {order.model.numel()} numbers: that of the experiment has "
            f"{federation.initial.numel()}"
        )
    sums = config.strategy.needs == "sum" or ring.is_secure(config)
    is_summed = sums and request.kind in _TRAINING
    form = number_format(federation, round=order.round) if is_summed else None
    if request.kind in _TRAINING and order.form != form:
        raise RefusedError(
            "the number format, or what updates are clipped to, is not the experiment's"
        )


def _rows(federation: Federation, request: Request) -> int:
    if request.kind == _EVALUATE:
        return len(federation.clients.held_out(request.client).y)
    return datasets.sizes_of(federation.clients, [request.client])[0]


def _count(
    folder: NodeFolder,
    policy: Policy,
    federation: Federation,
    request: Request,
    experiment: str,
    time: str,
) -> None:
    """Count a round, then charge it: a node that dies in between has counted one too many."""
    assert request.order is not None
    number, repeats = request.order.round, policy.maximum_repeats
    answers = Answers(folder.ledger, experiment)
    kind = _EVALUATE if request.kind == _EVALUATE else messages.TRAIN
    before = answers.rounds(kind)
    answers.add(kind, number, request.run, time, rounds=policy.maximum_rounds, repeats=repeats)
    if kind == messages.TRAIN:
        account = Account(folder.ledger, policy, federation, request.client, experiment)
        account.charge(number, before, time)


def _count_levels(
    folder: NodeFolder, policy: Policy, request: Request, experiment: str, time: str
) -> None:
    """Count a level of a cut: what a server may ask by cuts has an end, after restarts too."""
    answers = Answers(folder.ledger, experiment)
    number = answers.rounds(_CUT).total() + 1
    answers.add(_CUT, number, request.run, time, rounds=policy.maximum_rounds, repeats=0)


def _secure(
    folder: NodeFolder, policy: Policy, config: RunConfig, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the node config with what this node accepts of secure sums: its files, its minima.

    Its keys are for the sums that the experiment, which was signed, has: with a key for masks a
    client answers in no other way.
    """
    found = dict(given)
    files: tuple[tuple[str, str], ...] = ()
    if ring.is_masked(config):
        files = (("identity-key", "identity.key"), ("identities", "identities.json"))
    elif ring.is_encrypted(config):
        files = (("ckks-key", "ckks.key"),)
    for key, name in files:
        if key not in found and (folder.root / name).exists():
            found[key] = str(folder.root / name)
    least = max(policy.minimum_cohort, 2)
    found["min-cohort"] = max(int(found.get("min-cohort", 2)), least)
    most = (policy.maximum_repeats + 2) * config.rounds.count + cut_sessions(config)
    found["max-sessions"] = min(int(found.get("max-sessions", most)), most)
    return found


def _told(error: FedsimError) -> FedsimError:
    """Return what the server is told: an error whose text says nothing of the data."""
    if isinstance(error, (RefusedError, BudgetExceededError)):
        return error
    for kind, text in _QUIET:
        if isinstance(error, kind):
            return RefusedError(text)
    return RefusedError("this node cannot do that; why stays with it")
