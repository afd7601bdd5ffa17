"""What could make a run less private than its epsilon says: a list of pitfalls, each looked at.

The twelve of jax_privacy's documentation (2026): denominators, sensitivity, sampler, public
metadata, adjacency, empty and non-finite input, accumulation, examples that mix, auxiliary outputs,
random numbers, floating point, precision. And ours: client weights, drop-outs, restarts, metrics
without noise, tuning runs, concurrent runs on the same data, preprocessing.

Nothing is trained and nothing is spent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from fedsim import distributed, exact, models, spending, user_level
from fedsim.config.schema import Privacy, RunConfig
from fedsim.core import ClientContext, Update
from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem
from fedsim.exact import InvalidUpdateError
from fedsim.federation import Federation, Places, build, width
from fedsim.privacy import accounting, example
from fedsim.privacy.check import Finding, check_model, refusal
from fedsim.privacy.events import Release
from fedsim.privacy.individual import WHOLE
from fedsim.privacy.noise import Stream
from fedsim.rounds import number_format
from fedsim.store import RunStore

__all__ = ["examine", "must_fit"]

_EXAMPLES = 4  # that a model is tried out with
_DRAWS = 200  # of cohorts or batches, to compare with what is accounted
_LARGE = 10.0  # epsilon: beyond it there is hardly a formal promise (Ponomareva et al., JAIR 2023)
_LARGE_DELTA = 1e-3
_SIGMAS = 5.0
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "afs")
#: Where data parts take scales, categories or alphabets from.
_FIXED = ("digits", "mnist", "fashionmnist", "synthetic")
_LEARNED = (
    "table",
    "adult",
    "breastcancer",
    "diabetes",
    "heartdisease",
    "huggingface",
    "shakespeare",
)


@dataclass(frozen=True)
class _Case:
    """An experiment whose noise has been found, and the store where its ledger is or will be."""

    federation: Federation
    store: RunStore

    @property
    def privacy(self) -> Privacy:
        return self.federation.config.privacy

    @property
    def delta(self) -> float:
        assert self.privacy.delta is not None  # `settled` has seen to it
        return self.privacy.delta

    @property
    def adjacency(self) -> Any:
        assert self.privacy.unit != "none"
        return accounting.ADJACENCY[self.privacy.unit]

    @property
    def cohort(self) -> int:
        return user_level.expected(self.federation.config, self.federation.population)

    @cached_property
    def worst(self) -> Release:
        """What the client releases in all rounds that releases most."""
        return self._planned[self._most[0]]

    @property
    def epsilon(self) -> float:
        return self._most[1]

    @cached_property
    def _planned(self) -> list[Release]:
        return [spend.release for spend in spending.plan_of(self.federation)]

    @cached_property
    def _most(self) -> tuple[int, float]:
        each = [[release] for release in self._planned]
        return accounting.worst(each, self.delta, self.adjacency)

    def with_history(self) -> float:
        """Return the epsilon after this run, of the client that has spent most then."""
        histories = spending.open_ledger(self.store.root, self.federation).spent().histories()
        after = [[*own, self.worst] for own, _ in histories]
        return accounting.worst(after, self.delta, self.adjacency)[1]


def examine(config: RunConfig, places: Places, store: RunStore) -> list[Finding]:
    """Return what was found, pitfall by pitfall: model first, settings then.

    `config` is legal. Raises what `fedsim.federation.build` raises for data or a model that do not
    fit, whatever the privacy.
    """
    if config.privacy.unit == "none":
        fix = "set privacy.unit=user and privacy.epsilon=3; see fedsim privacy plan"
        return [Finding("unit", "fail", "no privacy is asked for: privacy.unit = 'none'", fix)]
    plain = build(replace(config, privacy=Privacy()), places)
    found = _model(config, plain)
    try:
        federation = spending.settled(build(config, places))
        number_format(federation)
    except ConfigError as error:
        if any(f.status == "fail" for f in found) and _is_of_model(error):
            return found  # the model's findings say it better
        return [*found, *map(_refused, error.problems)]
    case = _Case(federation, store)
    return found + [finding for check in _CHECKS for finding in check(case)]


def must_fit(federation: Federation) -> None:
    """Raise `ConfigError` for a model that DP-SGD would train wrongly, where it is to train one."""
    config = federation.config
    if config.privacy.unit != "example":
        return
    batch = _batch(federation.clients.meta, federation.module.cpu())
    reason = refusal(federation.module, federation.loss, *batch, config.privacy.engine)
    federation.module.to(federation.device)
    if reason:
        name = getattr(config.model, "name", type(config.model).__name__.lower())
        raise ConfigError(
            [
                Problem(
                    "model.name",
                    name,
                    f"a model for privacy.unit = 'example': {reason}",
                    "`fedsim privacy check` says more.",
                )
            ]
        )


def _refused(problem: Problem) -> Finding:
    found = f"{problem.path} = {problem.value!r}; accepted: {problem.accepted}"
    return Finding("settings", "fail", found, problem.hint or f"change {problem.path}")


def _is_of_model(error: ConfigError) -> bool:
    return all(problem.path.startswith("model") for problem in error.problems)


def _model(config: RunConfig, plain: Federation) -> list[Finding]:
    """Try the model out, as it is for the unit of privacy."""
    module = plain.module.cpu()
    if config.privacy.unit != "example":
        return [_whole_update(module)]
    engine = config.privacy.engine
    has_lstm = any(type(child) is nn.LSTM for child in module.modules())
    if has_lstm and not any(getattr(child, "proj_size", 0) for child in module.modules()):
        module = models.build(
            config.model, plain.clients.meta, config.seed, example.replace_lstm
        ).cpu()
        name = "recurrent layers"
        said = Finding(name, "pass", "LSTM: replaced by Opacus's DPLSTM with the same weights")
        found = check_model(module, plain.loss, *_batch(plain.clients.meta, module), engine)
        return [said if finding.name == name else finding for finding in found]
    return check_model(module, plain.loss, *_batch(plain.clients.meta, module), engine)


def _whole_update(module: nn.Module) -> Finding:
    """Where a client's whole update is clipped, its examples may mix; but noise reaches buffers."""
    kept = [n for n, m in module.named_modules() if getattr(m, "running_var", None) is not None]
    if kept:
        found = f"{', '.join(kept[:4])}: running statistics get noise too, a variance below zero"
        return Finding(
            "model", "note", found, "nn.GroupNorm or nn.LayerNorm in place of batch norm"
        )
    return Finding("model", "pass", "whole updates are clipped: a client's examples may mix")


def _batch(meta: Meta, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Make up examples of the data's kind; none of anybody's is looked at."""
    stream = torch.Generator().manual_seed(0)
    shape = (_EXAMPLES, *meta.input_shape)
    x = torch.randn(shape, generator=stream)
    if meta.vocabulary:
        x = torch.randint(meta.vocabulary, shape, generator=stream)
    with torch.no_grad():
        output = module.eval()(x)
    places = output.shape[:-1] if meta.kind == "classification" else (_EXAMPLES,)
    if meta.kind == "regression":
        return x, torch.randn(places, generator=stream)
    return x, torch.randint(max(meta.outputs, 2), places, generator=stream)


def _unit(case: _Case) -> list[Finding]:
    unit, adjacency = case.privacy.unit, case.adjacency
    whose = {
        "user": "all of a client's data, from whoever sees the models; the server is trusted",
        "example": "each example of a client, from the server too",
        "local": "all of a client's data, from the server too",
    }[unit]
    means = {
        "zero-out": "data whose contribution is set to zero",
        "replace-one": "any data in their place",
    }[adjacency]
    return [
        Finding("unit", "pass", f"{unit}: hides {whose}"),
        Finding("adjacency", "pass", f"{adjacency}: neighbours have {means}"),
    ]


def _epsilon(case: _Case) -> list[Finding]:
    epsilon, delta = case.epsilon, case.delta
    said = f"epsilon {epsilon:.4g} at delta {delta:.3g} for all rounds"
    fix = "more noise, fewer rounds or a smaller cohort: fedsim privacy plan"
    sized = _delta(case)
    if epsilon > _LARGE:
        return [Finding("epsilon", "note", f"{said}: hardly a formal promise", fix), sized]
    return [Finding("epsilon", "pass", said), sized]


def _delta(case: _Case) -> Finding:
    name, delta, sizes = "delta", case.delta, case.federation.clients.sizes()
    is_of_examples = case.privacy.unit == "example"
    members = int(sizes.sum()) if is_of_examples else case.federation.population
    said = f"{delta:.3g} with {members:,} {'examples' if is_of_examples else 'clients'}"
    if delta > 1.001 * members**-1.1:
        return Finding(name, "note", f"{said}, above members^-1.1", "unset privacy.delta")
    if delta > _LARGE_DELTA:
        found = f"{said}: the promise may fail once in {1 / delta:.0f} times"
        return Finding(name, "note", found, f"more members, or privacy.delta={_LARGE_DELTA:g}")
    return Finding(name, "pass", f"{said}: at most members^-1.1")


def _sampler(case: _Case) -> list[Finding]:
    """Draw with the sampler that runs, and compare with the sampling that is accounted."""
    if case.privacy.unit == "user":
        return [_cohorts(case)]
    if case.privacy.unit == "example":
        return [_batches(case)]
    return [Finding("sampler", "pass", "none is accounted: a client's every update counts in full")]


def _cohorts(case: _Case) -> Finding:
    config, population = case.federation.config, case.federation.population
    config = replace(config, privacy=replace(case.privacy, noise="seeded"))
    draws = _DRAWS if population <= 10**5 else 20
    cohorts = [user_level.cohort(config, population, number) for number in range(1, draws + 1)]
    if case.privacy.sampling == "cyclic" and case.cohort < population:
        return _in_turn(case, cohorts)
    if own := user_level.individual(config):
        said = f"each client pays for its own updates: it lasts {own.most // WHOLE} rounds or more"
        return Finding("sampler", "pass", f"{said}; nothing is gained from sampling")
    accounted, sizes = case.worst.sampling, np.array([len(cohort) for cohort in cohorts])
    if accounted.kind == "all":
        fix = "privacy.sampling=truncated and a smaller rounds.cohort amplify privacy"
        return Finding("sampler", "note", "everybody: nothing is gained from sampling", fix)
    said = f"{accounted.kind}: {sizes.mean():.4g} of {population:,} clients a round, as accounted"
    spread = _SIGMAS * (population * accounted.rate * (1 - accounted.rate) / draws) ** 0.5
    is_off = abs(sizes.mean() - accounted.rate * population) > spread
    is_exact = accounted.kind != "fixed" or bool((sizes == accounted.most).all())
    if is_off or sizes.max() > (accounted.most or population) or not is_exact:
        found = f"{sizes.mean():.4g} clients a round are drawn, {accounted} is accounted"
        return Finding("sampler", "fail", found, "report this as a defect")
    if accounted.kind == "fixed":
        fix = "privacy.sampling=truncated costs less for the same cohort"
        return Finding("sampler", "note", f"{said}, at twice the sensitivity", fix)
    return Finding("sampler", "pass", said)


def _in_turn(case: _Case, cohorts: Sequence[Any]) -> Finding:
    """See that nobody takes part again before the others have, as is accounted."""
    between, latest = case.federation.population // case.cohort, dict[int, int]()
    for number, cohort in enumerate(cohorts):
        for client in cohort.tolist():
            if number - latest.get(client, -between) < between:
                found = f"client {client} takes part again after {number - latest[client]} rounds"
                return Finding("sampler", "fail", found, "report this as a defect")
            latest[client] = number
    said = f"clients in turn, {between} rounds or more between two of one"
    if case.worst.mechanism == "matrix":
        return Finding("sampler", "pass", f"{said}: what correlated noise is accounted for")
    fix = "privacy.sampling=truncated amplifies privacy; privacy.mechanism=matrix needs no luck"
    return Finding("sampler", "note", f"{said}: nothing is gained from sampling", fix)


def _batches(case: _Case) -> Finding:
    size = int(case.federation.clients.sizes().max())
    recipe = case.federation.config.local.recipe
    full_batch = case.federation.config.optimizer.full_batch
    expected, steps = example.steps_of(size, recipe, full_batch=full_batch)
    accounted = example.release(size, recipe, 1.0, full_batch=full_batch)
    stream = Stream.seeded(1, "check")
    sizes = np.array([len(example.batch(stream, size, expected)) for _ in range(_DRAWS)])
    rate = accounted.sampling.rate
    said = f"Poisson batches of {expected} of {size} examples, {steps} steps a round"
    spread = _SIGMAS * (size * rate * (1 - rate) / _DRAWS) ** 0.5
    if abs(sizes.mean() - rate * size) > spread or accounted.count != steps:
        return Finding("sampler", "fail", f"{said}: not what is drawn", "report this as a defect")
    if accounted.sampling.kind == "all":
        fix = "local.batch_size smaller than the shards amplifies privacy"
        return Finding("sampler", "note", "whole shards: nothing is gained from sampling", fix)
    return Finding("sampler", "pass", said)


def _sensitivity(case: _Case) -> list[Finding]:
    privacy, form = case.privacy, number_format(case.federation)
    norm = f"{privacy.clipping_norm:g}"
    if privacy.unit == "example":
        return [Finding("sensitivity", "pass", f"{norm}: each example's whole gradient is clipped")]
    if privacy.unit == "local":
        found = f"2 x {norm}, derived: any clipped update may stand for any other"
        return [Finding("sensitivity", "pass", found)]
    context = ClientContext(0, 1, 0)
    huge = Update(torch.full((form.dimension,), 1e3), weight=1e9)
    sent = case.federation.encode(huge, form, context)
    moved = float(torch.linalg.vector_norm(sent.vector.double())) * sent.weight
    if moved > privacy.clipping_norm:
        found = f"a huge update moves the sum by {moved:g}, more than {norm}"
        return [Finding("sensitivity", "fail", found, "report this as a defect")]
    found = f"a huge update with a huge weight moves the sum by {moved:.6g}, at most {norm}"
    return [Finding("sensitivity", "pass", found)]


def _denominators(case: _Case) -> list[Finding]:
    if case.privacy.unit == "example":
        found = "sums of a batch are divided by its expected size"
    elif case.privacy.unit == "user":
        found = f"the sum is divided by the expected cohort, {case.cohort}, whoever answers"
    else:
        found = "whoever divides sees randomized updates only"
    accumulated = "local steps may be any: what they come to is clipped as a whole"
    if case.privacy.unit == "example":
        accumulated = "each step adds noise to one whole batch: none is accumulated over"
    return [
        Finding("denominators", "pass", found),
        Finding("gradient accumulation", "pass", accumulated),
    ]


def _weights(case: _Case) -> list[Finding]:
    cap = case.privacy.weight_cap
    if case.privacy.unit == "example":
        found = "by numbers of examples, which are public here"
    elif cap is None:
        found = "all clients alike"
    else:
        found = f"by examples up to {cap:g}, as a part of that: at most 1"
    return [Finding("client weights", "pass", found)]


def _odd_input(case: _Case) -> list[Finding]:
    """Nobody, nothing, and what is no number."""
    form = number_format(case.federation)
    bad = Update(torch.full((form.dimension,), float("nan")), weight=1.0)
    try:
        exact.check(bad, form)
    except InvalidUpdateError:
        refused = Finding("non-finite input", "pass", "NaN and infinity never enter a sum")
    else:
        refused = Finding(
            "non-finite input", "fail", "NaN enters the sum", "report this as a defect"
        )
    return [
        refused,
        Finding("empty cohorts and batches", "pass", "are steps of noise, and counted"),
    ]


def _noise(case: _Case) -> list[Finding]:
    if case.privacy.noise == "seeded":
        fix = "privacy.noise=secret, the default"
        found = "seeded, not private: whoever knows the seed subtracts the noise"
        return [Finding("random numbers", "fail", found, fix)]
    found = "ChaCha20 under a key of the operating system's, for noise and for who is drawn"
    return [Finding("random numbers", "pass", found)]


def _precision(case: _Case) -> list[Finding]:
    privacy, form = case.privacy, number_format(case.federation)
    step = f"steps of 2^-{form.fraction_bits} in sums of updates"
    if privacy.unit != "user":
        found = "noise and what it hides are rounded to one grid before they are added"
        return [
            Finding("floating point", "pass", found),
            Finding("number format", "pass", f"{step}, which have their noise already"),
        ]
    scale = (privacy.noise_multiplier or 0.0) * privacy.clipping_norm * 2.0**form.fraction_bits
    return [
        Finding("floating point", "pass", "noise and sums are integers, added as integers"),
        Finding("number format", "pass", f"{step}; the noise is {scale:.3g} of them, with room"),
    ]


def _metrics(case: _Case) -> list[Finding]:
    tests = case.federation.config.evaluation
    found = [
        Finding(
            "training metrics",
            "note",
            "train/loss and each client's row are in the run store without noise",
            "publish the model and privacy report, not the run's records",
        )
    ]
    if tests.federated_every:
        said = "federated/... is computed on clients' held-out examples without noise"
        found.append(Finding("client metrics", "note", said, "evaluation.federated_every=0"))
    if tests.central_every:
        said = "test/... is of the server's test set, which epsilon does not cover"
        fix = "evaluation.central_every=0, unless the test set is public"
        found.append(Finding("test metrics", "note", said, fix))
    return found


def _public(case: _Case) -> list[Finding]:
    what = ["number of clients", "cohort", "rounds", "all settings", "the model's shape"]
    if case.privacy.unit == "example":
        what.insert(1, "each client's number of examples")
    found = [Finding("public constants", "pass", f"taken as known: {', '.join(what)}")]
    if getattr(case.federation.config.model, "name", ""):
        said = "your own code makes the initial model"
        found.append(Finding("initial model", "note", said, "start from public weights only"))
    return [*found, _preprocessing(case)]


def _preprocessing(case: _Case) -> Finding:
    name, part = "preprocessing", type(case.federation.config.data).__name__.lower()
    meta, fix = case.federation.clients.meta, "give data scaled by public constants"
    if part in _FIXED:
        scale = f", mean {meta.mean:g} and deviation {meta.std:g}" if meta.std != 1 else ""
        return Finding(name, "pass", f"{meta.name}: constants in the code{scale}")
    if part in _LEARNED:
        said = f"{meta.name}: scales, categories or alphabet are learned from clients' examples"
        return Finding(name, "note", f"{said}, with no noise", fix)
    return Finding(name, "note", f"{meta.name}: unknown where its scales come from", fix)


def _drop_outs(case: _Case) -> list[Finding]:
    least, name = case.federation.config.rounds.min_results, "drop-outs"
    if distributed.is_distributed(case.federation.config):
        return _drop_outs_of_noise(case)
    if least > 1:
        found = f"a round of fewer than {least} results ends the run, which may tell of clients"
        return [Finding(name, "note", found, "rounds.min_results=1")]
    return [Finding(name, "pass", "neither noise nor denominator depend on who answers")]


def _drop_outs_of_noise(case: _Case) -> list[Finding]:
    """Noise that clients add is lost with them."""
    federation, name = case.federation, "drop-outs"
    config, size = federation.config, width(federation)
    own = distributed.parts(config, federation.population, size)
    assumed = f"{own.colluders} of a cohort are assumed to tell the server their noise"
    found = [Finding("colluding clients", "note", assumed, "secure_sum.adversaries says how many")]
    if config.secure_sum.name == "ideal":
        said = "secure_sum.name = 'ideal' has no masks: the server could see every update"
        found.append(Finding("secure sum", "note", said, "secure_sum.name=secagg"))
    if own.is_completed:
        said = f"the server adds the noise of those missing from {own.most}: it is always the same"
        return [*found, Finding(name, "pass", said)]
    said = f"noise is calibrated to {own.least} survivors; with fewer no sum is opened"
    return [*found, Finding(name, "pass", said)]


def _restarts(case: _Case) -> list[Finding]:
    ledger = spending.open_ledger(case.store.root, case.federation)
    kind = _file_system(ledger.path)
    where = f"ledger {ledger.path}"
    if kind.startswith(_REMOTE):
        fix = "keep the run store on a local disk: --runs DIR"
        return [Finding("restarts", "note", f"{where} is on {kind}: locks may not hold", fix)]
    if kind in ("tmpfs", "ramfs"):
        fix = "keep the run store on a disk: --runs DIR"
        return [Finding("restarts", "note", f"{where} is in memory: a restart forgets it", fix)]
    return [Finding("restarts", "pass", f"{where}: each round is on the disk before it begins")]


def _file_system(path: Path) -> str:
    """Return the type of the file system that a path is or would be on, "" where nobody knows."""
    inside = [
        part
        for part in psutil.disk_partitions(all=True)
        if path.resolve().is_relative_to(part.mountpoint)
    ]
    return max(inside, key=lambda part: len(part.mountpoint)).fstype if inside else ""


def _others(case: _Case) -> list[Finding]:
    """Other runs on the same data: before, now, and without privacy."""
    runs = [
        run
        for run in case.store.all()
        if run.facts.get("data_sha256") == case.federation.clients.meta.sha256
    ]
    bare = [run for run in runs if (run.config.get("privacy") or {}).get("unit", "none") == "none"]
    going = [run.id for run in runs if run.status == "running"]
    found = [_spent_before(case)]
    if bare:
        said = (
            f"{len(bare)} runs without privacy on these data: settings chosen by them are not free"
        )
        fix = "choose settings on public data, or by private runs"
        found.append(Finding("tuning runs", "note", said, fix))
    said = "runs on the same data share a ledger, and its budget, under a lock"
    if going:
        said += f"; going on now: {', '.join(going[:3])}"
    return [*found, Finding("concurrent runs", "pass", said)]


def _spent_before(case: _Case) -> Finding:
    name = "budget of the data set"
    ledger, cap = spending.open_ledger(case.store.root, case.federation), case.privacy.epsilon
    others = len(ledger.spent().runs)
    if not others:
        return Finding(name, "pass", "nothing has been spent before, tuning runs included")
    total = case.with_history()
    said = f"{others} runs have spent of it: epsilon {total:.4g} in all after this one"
    if cap and total > cap * (1 + 1e-3):
        fix = f"privacy.epsilon={np.ceil(total * 10) / 10:g}, more noise or fewer rounds"
        return Finding(name, "fail", f"{said}, above the cap of {cap:g}", fix)
    return Finding(name, "note", said, "report this sum, not one run's epsilon")


_CHECKS: tuple[Callable[[_Case], list[Finding]], ...] = (
    _unit,
    _epsilon,
    _sampler,
    _sensitivity,
    _denominators,
    _weights,
    _odd_input,
    _noise,
    _precision,
    _metrics,
    _public,
    _drop_outs,
    _restarts,
    _others,
)
