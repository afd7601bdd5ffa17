"""Tiers: the ways in which a worker can train the clients of a block, and which one a run takes.

From the most general to the fastest: `messages` (any ClientApp, a message each), `resident` (our
local algorithms one client after another, no message in between), `vectorized` (parameters of all
clients of a block stacked) and `low-rank` (dense layers under SGD, weights never formed). Which one
is legal follows from the model, the local algorithm and the optimizer; which legal one is taken,
and how many clients make a block, from a short measurement. Both stand in the run's record: the
same tier and block size give the same bytes, others differ in rounding.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch

from fedsim import environment, rng
from fedsim.core import ClientContext, Clipping, Memo, Recipe
from fedsim.data import Examples
from fedsim.errors import ConfigError, Problem
from fedsim.federation import Federation, trained_module
from fedsim.optimizers.sgd import Sgd
from fedsim.transforms.clip import Clip
from fedsim.transforms.unchanged import Unchanged
from fedsim.vectorized import clipped, dense, stacked
from fedsim.vectorized.block import Fit, padding_of, train_block

__all__ = [
    "LOW_RANK",
    "MESSAGES",
    "RESIDENT",
    "Execution",
    "are_even",
    "choose",
    "fit_of",
    "travelling",
]

MESSAGES, RESIDENT, VECTORIZED, LOW_RANK = "messages", "resident", "vectorized", "low-rank"

_FORMAT = 5  # of what is remembered; a change makes it measured anew
_TRIAL_CLIENTS, _TRIAL_STEPS = 3, 2
# Of a trial, as a part of an update's norm: what is refused is off by far more than rounding.
_TOLERANCE, _TOLERANCE_OF_STEPS, _ROUNDING = 1e-3, 0.05, 1e-6
_TRIAL_LR = 0.1
_WIDTHS = {"cpu": (8, 32, 128), "cuda": (16, 64, 256, 1024)}
_WIDER = 4  # times the last width: a block may be so much larger where a round has room for it
_GAIN = 1.15  # how much faster a tier must be to be taken
_GAIN_OF_WIDTH = 0.85  # a larger block may be slower: timings vary by so much
_BLOCK_S = 5e-3  # of a block besides training: its data, its sum, its message (measured 5 to 20 ms)
_LONG_S = 1.0  # of a timing: not repeated
_HOPELESS = 1.5  # so much slower in a first timing: not measured further
_BUSY_S = 1e-3  # of a layer in a step on a CPU: what calling it costs is a tenth of that
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.25}  # of what is free: for all cores, for a block on a GPU
_PROBE_STEPS, _PROBE_EXAMPLES = 4, 4096
_PADDED_CLIENTS = 256


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run trains its clients. `reason`: why not a faster tier; `block_size` None: by size.

    `padding`: examples computed for each there is, in a block of clients drawn at random; None
    where clients train by themselves. `memory_bytes`: what a block took at most where it was timed;
    None where none was.
    """

    tier: str
    block_size: int | None
    reason: str = ""
    padding: float | None = None
    memory_bytes: int | None = None


def travelling(at_once: int, cohort: int, workers: int, *, is_even: bool = False) -> int:
    """Return how many clients go to a worker together: whole groups, so that no bit depends on it.

    About two such blocks per worker in a round: what travels costs, and the last one is waited for.
    One where all take equally long (`is_even`): workers then end together.

    >>> travelling(125, 1000, 2), travelling(8, 20, 4), travelling(5, 12, 1)
    (250, 8, 5)
    >>> travelling(125, 1000, 2, is_even=True)
    500
    """
    blocks = workers if is_even else 2 * workers
    return at_once * max(1, cohort // (blocks * at_once))


def are_even(federation: Federation) -> bool:
    """Say whether all clients have equally many examples, so that blocks of them take as long."""
    sizes = federation.clients.sizes()
    return bool(sizes.min() == sizes.max())


def fit_of(tier: str, federation: Federation) -> Fit:
    """Return what trains a block at once in a tier above `resident`."""
    if tier == LOW_RANK:
        return dense.fit_factored
    if federation.config.local.recipe.clipping:
        return clipped.fit_clipped
    return dense.fit_products if _is_chain(federation) else stacked.fit_stacked


def choose(
    federation: Federation, cache_dir: Path | None = None, *, cores: int | None = None
) -> Execution:
    """Choose a run's tier and block size: what `engine` asks for, else what is measured here.

    `cores`: for how many a round must have blocks, by default this machine's. The measurement is
    remembered in `cache_dir`, so that the same experiment runs alike again. Raises `ConfigError`
    for a tier that the experiment cannot be run in.
    """
    with environment.one_thread():  # as in a worker
        found = _chosen(federation, cache_dir, cores or environment.cpu_limit())
    if found.tier in (MESSAGES, RESIDENT):
        return found
    return replace(found, padding=_padding(federation, found.block_size or _cohort(federation)))


def _chosen(federation: Federation, cache_dir: Path | None, cores: int) -> Execution:
    engine = federation.config.engine
    legal, reason = _legal(federation)
    if engine.tier != "auto":
        if engine.tier not in legal:
            accepted = f"one of {', '.join(legal)} ({reason})"
            raise ConfigError([Problem("engine.tier", engine.tier, accepted)])
        legal = [engine.tier]
    if legal[-1] in (MESSAGES, RESIDENT):
        return Execution(legal[-1], engine.block_size, reason)
    if engine.block_size is not None and engine.tier != "auto":
        return Execution(engine.tier, engine.block_size)
    widths = _widths(federation, cores)
    file = cache_dir / f"tier-{_key(federation, legal, widths)}.json" if cache_dir else None
    found = _remembered(file)
    if found is None:
        found = _measured(federation, legal, widths, cores)
        _remember(file, found)
    if engine.block_size is not None:
        return replace(found, block_size=engine.block_size, memory_bytes=None)
    return found


def _legal(federation: Federation) -> tuple[list[str], str]:
    """List the tiers a run could take, slowest first, and why no faster one."""
    config, legal = federation.config, [MESSAGES, RESIDENT]
    recipe = getattr(
        config.local, "recipe", None
    )  # an algorithm from elsewhere may not declare any
    if recipe is None:
        return legal, f"{type(config.local).__name__} trains each client by itself"
    if federation.adversaries.changes_updates:
        return legal, "malicious clients change their updates, each by itself"
    if recipe.clipping and recipe.clipping.engine != "fedsim":
        return legal, "Opacus clips one client after another; privacy.engine=fedsim many at once"
    if recipe.clipping and recipe.clipping.at_once:
        return legal, "batches are computed in pieces"
    unsuitable = stacked.unsuitable(trained_module(federation))
    if unsuitable:
        return legal, unsuitable
    failure = _trial(federation, recipe)
    if failure:
        return legal, failure
    legal.append(VECTORIZED)
    reason = _not_low_rank(federation, recipe)
    return (legal, reason) if reason else ([*legal, LOW_RANK], "")


def _not_low_rank(federation: Federation, recipe: Recipe) -> str:
    config = federation.config
    if not _is_chain(federation):
        return "the model is no chain of dense layers and activations"
    if recipe.clipping:
        return "every example's gradient is clipped"
    if not config.optimizer.is_linear or recipe.adjust or recipe.keep_optimizer:
        return "its steps are not those of SGD alone"
    if not isinstance(config.transform, (Unchanged, Clip)):
        return "updates are transformed one by one"
    if config.regularization.l1 or config.regularization.l2:
        return "penalties act on whole weights"
    median = int(np.median(federation.clients.sizes()))
    if not dense.pays_off(trained_module(federation), median):
        return f"clients have {median} examples, which is too many for so few inputs"
    return ""


def _is_chain(federation: Federation) -> bool:
    return dense.suits(trained_module(federation), federation.clients.meta.input_shape)


def _trial(federation: Federation, recipe: Recipe) -> str:
    """Train three tiny clients at once and one by one; say in a line what is wrong, if anything.

    A module may do what no inspection shows: mix the examples of a batch, draw random numbers,
    branch on values. It shows under plain SGD, whose steps are as large as the gradients. Adam and
    its like turn gradients that are nothing but rounding into whole steps: with them, a few
    coordinates may differ.
    """
    short = replace(recipe, steps=_TRIAL_STEPS, batch_size=2, keep_optimizer=False)
    if recipe.clipping:  # no noise that could hide a difference, no batch that chance leaves empty
        short = replace(short, batch_size=0, clipping=Clipping(1.0, 0.0))
    clients = [min(i, federation.clients.clients - 1) for i in range(_TRIAL_CLIENTS)]
    shards = [_head(federation.clients.train(c), 3 - i % 2) for i, c in enumerate(clients)]
    plain = replace(federation.config, optimizer=Sgd(lr=_TRIAL_LR))
    mixes = "it mixes examples or draws numbers"
    failure = _tried(replace(federation, config=plain), shards, short, _TOLERANCE, mixes)
    if failure or federation.config.optimizer.is_linear:
        return failure
    own = "its optimizer does not step each client by itself"
    return _tried(federation, shards, short, _TOLERANCE_OF_STEPS, own)


def _tried(
    federation: Federation, shards: Sequence[Examples], recipe: Recipe, tolerance: float, why: str
) -> str:
    """Say in a line what failed, or that more than `tolerance` of an update differs, and `why`."""
    try:
        together = _train_at_once(federation, VECTORIZED, shards, recipe)
    except Exception as error:
        if environment.is_out_of_memory(error):
            return f"there is not memory for {_TRIAL_CLIENTS} clients at once"
        text = (str(error).strip().splitlines() or [""])[0]
        return f"its forward pass cannot be stacked: {type(error).__name__}: {text[:200]}"
    alone = _train_one_by_one(federation, shards, recipe)
    off, moved = (together - alone).norm(dim=1), alone.norm(dim=1)
    rounding = _ROUNDING * float(federation.initial.norm())
    if bool((off <= tolerance * moved + rounding).all()):  # not where either is no number
        return ""
    return f"stacked training differs by {float((off / moved).max()):.2g} of an update: {why}"


def _train_at_once(
    federation: Federation, tier: str, shards: Sequence[Examples], recipe: Recipe
) -> torch.Tensor:
    task = federation.task(federation.initial, shards)
    contexts = [ClientContext(federation.config.seed, 0, i) for i in range(len(shards))]
    sizes = [len(shard.y) for shard in shards]
    memos: list[Memo] = [{} for _ in shards]
    rows: dict[int, torch.Tensor] = {}
    for trained in train_block(fit_of(tier, federation), task, recipe, sizes, memos, contexts):
        rows |= dict(zip(trained.members, trained.change.vectors(), strict=True))
    return torch.stack([rows[i] for i in range(len(shards))]).cpu()


def _train_one_by_one(
    federation: Federation, shards: Sequence[Examples], recipe: Recipe
) -> torch.Tensor:
    from fedsim.clients._local import train_locally

    found = []
    for i, shard in enumerate(shards):
        task = federation.task(federation.initial, [shard])
        update, _ = train_locally(task, {}, ClientContext(federation.config.seed, 0, i), recipe)
        found.append(update.vector)
    return torch.stack(found)


def _widths(federation: Federation, cores: int) -> list[int]:
    """List the sizes that a block may have, so that a round has enough blocks.

    On a CPU one for every core, or two where some take longer than others. They depend on the
    machine, not on a run's workers: these change no bit.
    """
    device = federation.device.type
    per_core = 1 if are_even(federation) else 2
    blocks = per_core * cores if device == "cpu" else 1
    most = -(-_cohort(federation) // blocks)
    below = [width for width in _WIDTHS[device] if width < most]
    return [*below, min(most, _WIDER * _WIDTHS[device][-1])]


def _measured(
    federation: Federation, legal: Sequence[str], widths: Sequence[int], cores: int
) -> Execution:
    """Time the legal tiers on clients of median size, a few steps each; take the fastest."""
    best, alone = Execution(legal[-1], 1), float("inf")
    if RESIDENT in legal:  # else one tier is asked for, and only its block size is open
        best = Execution(RESIDENT, None, "the others were not faster here")
        alone = _seconds_resident(federation)
        if legal[-1] == VECTORIZED and _is_busy(federation, alone):
            return replace(best, reason="a step is long enough: many at once would not be faster")
    least = alone
    for tier in [tier for tier in legal if tier not in (MESSAGES, RESIDENT)]:
        found, seconds = _best_width(federation, tier, widths, alone, cores)
        if seconds * _GAIN < least:
            best, least = found, seconds
        elif found.reason and best.tier == RESIDENT:
            best = replace(best, reason=found.reason)
    return best


def _is_busy(federation: Federation, alone: float) -> bool:
    """Say whether computing takes nearly all of a client's time, so that stacking saves nothing.

    What a stack of clients saves on a CPU is calling every layer for each of them. `alone`: seconds
    of a client one by one.
    """
    if federation.device.type != "cpu":
        return False
    layers = sum(next(m.children(), None) is None for m in trained_module(federation).modules())
    return alone > (_short(federation).steps or 1) * layers * _BUSY_S


def _best_width(
    federation: Federation, tier: str, widths: Sequence[int], alone: float, cores: int
) -> tuple[Execution, float]:
    """Return a tier at its best width and its seconds per client; inf where one by one is faster.

    `alone`: seconds of a client one by one. The reason says what stood in the way of a larger
    block, if it was not its speed.
    """
    best, least, cost = Execution(tier, 1), float("inf"), float("inf")
    room, needed = _room(federation, cores), float(_least_bytes(federation))
    taken = environment.memory_above_now(federation.device)
    for width in widths:
        if width * needed > room:
            return replace(best, reason=_too_large(width, width * needed, room)), least
        try:
            seconds = _seconds_at_once(federation, tier, width, _HOPELESS * alone)
        except (MemoryError, RuntimeError) as error:
            return replace(best, reason=_failed(width, error)), least
        needed = max(needed, taken() / width)  # widths grow: the most was taken by this one
        whole = seconds + _BLOCK_S / width
        # Wider blocks would gain less again, and take longer to time.
        if seconds * _GAIN >= alone or whole * _GAIN_OF_WIDTH >= cost:
            break
        best, least = Execution(tier, width, memory_bytes=int(width * needed)), seconds
        cost = min(cost, whole)
    return best, least


def _too_large(width: int, needed: float, room: float) -> str:
    return (
        f"{width} clients at once would take about {needed / 2**20:,.0f} MB, "
        f"and a block may have {room / 2**20:,.0f}"
    )


def _failed(width: int, error: Exception) -> str:
    if environment.is_out_of_memory(error):
        return f"there was not memory for {width} clients at once"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{width} clients at once failed: {type(error).__name__}: {text[:200]}"


def _seconds_resident(federation: Federation) -> float:
    clients, recipe = _probe_clients(federation, 2), _short(federation)
    _train_one_by_one(federation, clients[:1], recipe)
    started = _now(federation)
    _train_one_by_one(federation, clients, recipe)
    return (_now(federation) - started) / len(clients)


def _now(federation: Federation) -> float:
    """Read a clock that runs while this thread computes: others use the cores at the same time."""
    return thread_time() if federation.device.type == "cpu" else perf_counter()


def _seconds_at_once(federation: Federation, tier: str, width: int, limit: float) -> float:
    """Time a client in a block of `width`: the best of three, or of fewer that take long.

    The first above `limit` is enough, and one that took a second has little noise in it.
    """
    clients, recipe = _probe_clients(federation, width), _short(federation)
    _time_at_once(federation, tier, clients[:2], replace(recipe, steps=1))
    least = float("inf")
    for _ in range(3):
        seconds = _time_at_once(federation, tier, clients, recipe)
        least = min(least, seconds / width)
        if least > limit or seconds > _LONG_S:
            break
    return least


def _time_at_once(
    federation: Federation, tier: str, shards: Sequence[Examples], recipe: Recipe
) -> float:
    started = _now(federation)
    task = federation.task(federation.initial, shards, as_stored=tier == LOW_RANK)
    contexts = [ClientContext(federation.config.seed, 0, i) for i in range(len(shards))]
    sizes = [len(shard.y) for shard in shards]
    memos: list[Memo] = [{} for _ in shards]
    is_ordered = recipe.clipping is None  # as blocks come: which examples come first is no matter
    fit = fit_of(tier, federation)
    for trained in train_block(fit, task, recipe, sizes, memos, contexts, is_ordered=is_ordered):
        trained.change.weighted_sum(torch.ones(len(trained.members), device=federation.device))
    return _now(federation) - started


def _probe_clients(federation: Federation, count: int) -> list[Examples]:
    """Return shards of clients around the median size, cut where they are very large."""
    order = np.argsort(federation.clients.sizes(), kind="stable")
    first = max(0, len(order) // 2 - count // 2)
    chosen = [int(order[min(first + i, len(order) - 1)]) for i in range(count)]
    return [_head(federation.clients.train(client), _PROBE_EXAMPLES) for client in chosen]


def _short(federation: Federation) -> Recipe:
    recipe: Recipe = federation.config.local.recipe
    whole = recipe.steps or recipe.epochs * 1000
    return replace(recipe, steps=min(_PROBE_STEPS, whole), keep_optimizer=False)


def _room(federation: Federation, cores: int) -> float:
    """Return how many bytes a block may take: on a CPU every core has one in work."""
    if federation.device.type == "cuda":
        return _MEMORY_SHARE["cuda"] * torch.cuda.mem_get_info(federation.device)[0]
    return _MEMORY_SHARE["cpu"] * environment.memory_available_bytes() / cores


def _least_bytes(federation: Federation) -> int:
    """Return what a client of a block needs for sure: its parameters, gradients and the states."""
    state = federation.config.optimizer.start([torch.zeros(1)])
    return 4 * federation.initial.numel() * (3 + len(state))


def _padding(federation: Federation, block_size: int) -> float:
    """Measure the padding of a block: all that it would compute is planned, and none of it done."""
    config, sizes = federation.config, federation.clients.sizes()
    sizes = sizes[sizes > 0]
    count = min(block_size, len(sizes), _PADDED_CLIENTS)
    chosen = rng.stream(config.seed, "padding").choice(len(sizes), count, replace=False)
    contexts = [ClientContext(config.seed, 0, int(client)) for client in chosen]
    recipe = config.local.recipe
    if recipe.clipping:  # Poisson batches: one step is like another
        recipe = _short(federation)
    full_batch, own = config.optimizer.full_batch, sizes[chosen].tolist()
    return round(padding_of(recipe, own, contexts, full_batch=full_batch), 4)


def _cohort(federation: Federation) -> int:
    asked = federation.config.rounds.cohort or federation.population
    return int(min(asked, federation.population))


def _head(shard: Examples, count: int) -> Examples:
    return Examples(shard.x[:count], shard.y[:count])


def _key(federation: Federation, legal: Sequence[str], widths: Sequence[int]) -> str:
    """Name what a measurement depends on, the machine included."""
    config = federation.config
    parts = [config.data, config.partition, config.model, config.local, config.optimizer]
    parts.append(config.transform)
    facts: list[Any] = [
        _FORMAT,
        list(legal),
        list(widths),
        [[type(part).__name__, asdict(part)] for part in parts],
        _cohort(federation),
        federation.initial.numel(),
        str(federation.device),
        torch.__version__,
        platform.node(),
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:20]


def _remembered(file: Path | None) -> Execution | None:
    if file is None:
        return None
    try:
        kept: Mapping[str, Any] = json.loads(file.read_text())
        memory = kept["memory_bytes"]
        return Execution(kept["tier"], kept["block_size"], kept["reason"], memory_bytes=memory)
    except (OSError, ValueError, KeyError):
        return None


def _remember(file: Path | None, found: Execution) -> None:
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(found)))
    except OSError:
        return  # measured anew next time
