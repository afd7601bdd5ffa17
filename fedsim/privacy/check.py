"""Whether a model's examples have gradients of their own, and whether ours are those.

DP-SGD promises something about one example because every gradient is clipped by itself. A layer
that lets one example see another breaks the promise, and nothing in the loss curve shows it. So
models are tried out: change one example, and look at the others' outputs; run a batch, and look at
what it left in the module; compare gradients with one backward pass per example.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim import dropout
from fedsim.losses import Loss
from fedsim.privacy.clipping import Clipper, has_rule, layers_with_rules

__all__ = ["Finding", "check_model", "refusal"]

_TOLERANCE = 1e-5  # of the largest number of a gradient
_MIXED = 1e-5  # of the largest output: what one example may move another's by, for rounding
_RECURRENT = {nn.LSTM: "DPLSTM", nn.GRU: "DPGRU", nn.RNN: "DPRNN"}
_RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, dropout.Dropout)
_SHOWN = 4  # names in a list


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it in one line."""

    name: str
    status: Literal["pass", "fail", "note"]
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A copy of the module, a loss, and a batch of examples to try them with."""

    module: nn.Module
    loss: Loss
    x: Tensor
    y: Tensor

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs in training, with the same masks and draws every time."""
        with torch.no_grad(), _seeded():
            found: Tensor = self.module(x)
        return found


def check_model(
    module: nn.Module, loss: Loss, x: Tensor, y: Tensor, engine: str = "fedsim"
) -> list[Finding]:
    """Try a model out on a few examples, two at least; the module itself is left as it is.

    `x` [examples, ...] and `y` as the loss wants them. `engine`: what is to clip its gradients,
    `privacy.engine`. A finding that fails says that training by DP-SGD would be wrong or would not
    be private.
    """
    found = _findings(module, loss, x, y)
    if any(finding.status == "fail" for finding in found):
        return found
    found.append(_opacus(_Trial(copy.deepcopy(module).train(), loss, x, y)))
    return found if engine == "fedsim" else [*found, _engine(module, loss, x, y, engine)]


def refusal(module: nn.Module, loss: Loss, x: Tensor, y: Tensor, engine: str = "fedsim") -> str:
    """Say why a model must not be trained by DP-SGD, and the fix; "" where nothing was found.

    `engine`: what is to clip its gradients, `privacy.engine`.
    """
    found = _findings(module, loss, x, y)
    if engine != "fedsim" and not any(finding.status == "fail" for finding in found):
        found.append(_engine(module, loss, x, y, engine))
    failed = [f for f in found if f.status == "fail"]
    return "; ".join(f"{finding.found}. Fix: {finding.fix}" for finding in failed)


def _findings(module: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> list[Finding]:
    """Look at one thing after the other, up to where something fails that spoils what follows."""
    try:
        trial = _Trial(copy.deepcopy(module).train(), loss, x, y)
    except Exception as error:
        what = f"it cannot be copied: {_said(error)}"
        fix = "nn.utils.parametrizations.weight_norm in place of nn.utils.weight_norm"
        return [Finding("the model", "fail", what, fix)]
    found: list[Finding] = []
    for steps in _STEPS:
        found += [step(trial) for step in steps]
        if any(finding.status == "fail" for finding in found):
            break
    return found


def _batch_norm(trial: _Trial) -> Finding:
    name, kind = "batch norm", nn.modules.batchnorm._BatchNorm
    layers = [(n, m) for n, m in trial.module.named_modules() if isinstance(m, kind)]
    if not layers:
        return Finding(name, "pass", "none")
    where, layer = layers[0]
    size = layer.num_features
    is_flat = isinstance(layer, nn.BatchNorm1d) and trial.x.dim() == 2
    # A group of one number would be normalized to nothing.
    other = f"nn.LayerNorm({size})" if is_flat else f"nn.GroupNorm({math.gcd(32, size)}, {size})"
    found = f"{_named([n for n, _ in layers])}: statistics over a batch mix its examples"
    return Finding(name, "fail", found, f"in place of {where or 'it'} use {other}")


def _recurrent(trial: _Trial) -> Finding:
    name = "recurrent layers"
    layers = [(n, m) for n, m in trial.module.named_modules() if type(m) in _RECURRENT]
    if not layers:
        return Finding(name, "pass", "none that torch cannot differentiate example by example")
    where, layer = layers[0]
    other = _RECURRENT[type(layer)]
    if type(layer) is nn.LSTM and layer.proj_size:
        found = f"{where} is an LSTM with projections: it has no gradients per example"
        return Finding(name, "fail", found, "set proj_size=0 and add an nn.Linear after it")
    if any(type(m) is not nn.LSTM for _, m in layers):
        found = (
            f"{_named([n for n, _ in layers])}: one backward pass for each example, which is slow"
        )
        return Finding(name, "note", found, f"opacus.layers.{other} is the same and faster")
    found = f"{_named([n for n, _ in layers])}: replaced by Opacus's {other} with the same weights"
    return Finding(name, "pass", found)


def _types(trial: _Trial) -> Finding:
    name = "number types"
    odd = {n: p.dtype for n, p in trial.module.named_parameters() if p.dtype != torch.float32}
    if not odd:
        return Finding(name, "pass", f"parameters are float32, inputs {_plain(trial.x.dtype)}")
    kinds = ", ".join(sorted({_plain(kind) for kind in odd.values()}))
    found = f"{_named(list(odd))}: {kinds}, but updates travel and are clipped as float32"
    return Finding(name, "fail", found, "build the model in float32: model.float()")


def _embeddings(trial: _Trial) -> Finding:
    name = "embeddings"
    kinds = (nn.Embedding, nn.EmbeddingBag)
    layers = [(n, m) for n, m in trial.module.named_modules() if isinstance(m, kinds)]
    for where, layer in layers:
        if layer.max_norm is not None:
            found = f"{where} has max_norm: looking a row up changes it, with no noise"
            return Finding(name, "fail", found, "leave max_norm out")
        if layer.sparse:
            found = f"{where} is sparse: noise is dense, and sparse gradients tell who has a token"
            return Finding(name, "fail", found, "leave sparse out: sparse=False")
    slow = [n for n, m in layers if m.scale_grad_by_freq or isinstance(m, nn.EmbeddingBag)]
    if slow:
        fix = "leave scale_grad_by_freq out, or use nn.Embedding"
        return Finding(name, "note", f"{_named(slow)}: gradients one by one, slower", fix)
    return Finding(name, "pass", f"{len(layers)}" if layers else "none")


def _state(trial: _Trial) -> Finding:
    """Look for what a batch leaves in the module: statistics, rows that were made shorter."""
    name, before = "what a batch leaves behind", _tensors(trial.module)
    try:
        trial.outputs(trial.x)
    except Exception as error:
        found = f"training raises {_said(error)}"
        return Finding(name, "fail", found, "make forward work in training on a batch of examples")
    after = _tensors(trial.module)
    changed = [n for n in after if n not in before or not _same(before[n], after[n])]
    if not changed:
        return Finding(name, "pass", "forward changes no parameter, buffer or attribute")
    spectral = any("_u" in n.split(".")[-1] and "parametrizations" in n for n in changed)
    fix = "let forward keep nothing of a batch (group norm, track_running_stats=False)"
    if spectral:
        fix = "leave spectral_norm out: clipping bounds what it would bound"
    return Finding(name, "fail", f"forward changes {_named(changed)}, with no noise", fix)


def _draws(trial: _Trial) -> Finding:
    name = "random draws"
    if _has_draws(trial):
        found = "forward draws from torch's generator: a run cannot be repeated bit by bit"
        return Finding(name, "note", found, "use nn.Dropout, which fedsim gives streams of its own")
    return Finding(name, "pass", "none but fedsim's own dropout")


def _mixing(trial: _Trial) -> Finding:
    """Change one example at a time, in several ways; the others' outputs must stay."""
    name = "examples are kept apart"
    fix = "work on each example by itself: no mean, sort, softmax or routing over dimension 0"
    outputs = trial.outputs(trial.x)
    if outputs.shape[:1] != trial.x.shape[:1]:
        found = f"{len(trial.x)} examples give outputs of shape {tuple(outputs.shape)}"
        return Finding(name, "fail", found, "return one output for each example, first dimension")
    room = _MIXED * max(1.0, float(outputs.abs().max()))
    for place in range(len(trial.x)):
        others = torch.arange(len(trial.x)) != place
        for other in _others(trial.x, place):
            moved = (trial.outputs(other) - outputs)[others].abs().max()
            if not float(moved) <= room:
                found = f"changing one example moves the outputs of others by {float(moved):.3g}"
                return Finding(name, "fail", found, fix)
    with _quiet(trial.module, is_whole=_has_draws(trial)):
        outputs = trial.outputs(trial.x)
        for place in range(len(trial.x)):
            alone = trial.outputs(trial.x[place : place + 1])
            if not float((alone[0] - outputs[place]).abs().max()) <= 10 * room:
                found = "an example alone has another output than in a batch"
                return Finding(name, "fail", found, fix)
    return Finding(name, "pass", "changing one example moves no other's output")


def _others(x: Tensor, place: int) -> Iterator[Tensor]:
    """Yield batches with something else at a place: its neighbour, zero, the opposite, much."""
    rows = [x[(place + 1) % len(x)], torch.zeros_like(x[place])]
    if x.is_floating_point():
        rows += [-x[place], 100 * x[place] + 1]
    for row in rows:
        other = x.clone()
        other[place] = row
        yield other


def _decisions(trial: _Trial) -> Finding:
    """Look for `if` and `.item()` on numbers: then a batch may go another way than its examples."""
    name = "control flow"
    try:
        with torch.no_grad(), _quiet(trial.module):
            torch.func.vmap(lambda row: trial.module(row.unsqueeze(0)), randomness="different")(
                trial.x
            )
    except RuntimeError as error:
        text = str(error)
        if "data-dependent control flow" in text or ".item()" in text:
            found = "forward decides by the numbers it gets, for a whole batch at once"
            fix = "decide for each example: torch.where in place of if, no .item()"
            return Finding(name, "fail", found, fix)
    return Finding(name, "pass", "the same for all examples")


def _unused(trial: _Trial) -> Finding:
    name, named = "unused parameters", _trainable(trial.module)
    try:
        with _seeded(), _quiet(trial.module):
            total = trial.loss(trial.module(trial.x), trial.y)
            grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    except Exception as error:
        fix = "make a backward pass work: no in-place work on what it needs"
        return Finding(name, "fail", f"backward raises {_said(error)}", fix)
    unused = [n for n, g in zip(named, grads, strict=True) if g is None]
    if not unused:
        return Finding(name, "pass", "none: every parameter has a gradient")
    found = f"{_named(unused)}: no gradient, but noise in every step"
    return Finding(name, "note", found, "remove it, or freeze it: requires_grad_(False)")


def _frozen(trial: _Trial) -> Finding:
    name = "frozen parameters"
    frozen = [n for n, p in trial.module.named_parameters() if not p.requires_grad]
    if not frozen:
        return Finding(name, "pass", "none")
    halves = [n for n, m in trial.module.named_modules() if _is_half_frozen(m)]
    if halves:
        fix = "freeze whole layers if that is what is meant"
        return Finding(name, "note", f"{_named(halves)}: half frozen; the rest is trained", fix)
    return Finding(name, "pass", f"{_named(frozen)}: neither trained nor noised")


def _is_half_frozen(module: nn.Module) -> bool:
    return len({p.requires_grad for p in module.parameters(recurse=False)}) == 2


def _tied(trial: _Trial) -> Finding:
    name, seen, tied = "tied weights", dict[int, str](), []
    for n, p in trial.module.named_parameters(remove_duplicate=False):
        if id(p) in seen and p.requires_grad and not _is_alias(trial.module, seen[id(p)], n):
            tied.append(f"{n} = {seen[id(p)]}")
        seen.setdefault(id(p), n)
    if tied:
        found = f"{_named(tied)}: clipped as one, by whole gradients of each example: slower"
        return Finding(name, "note", found, "untie them, or train with small batches")
    return Finding(name, "pass", "none")


def _is_alias(module: nn.Module, first: str, second: str) -> bool:
    """Say whether a parameter has two names because a layer names those of its own parts."""
    a, b = (n.rpartition(".")[0] for n in (first, second))
    return a.startswith(b) or b.startswith(a)


def _in_place(trial: _Trial) -> Finding:
    name = "in-place operations"
    layers = [n for n, m in trial.module.named_modules() if getattr(m, "inplace", False)]
    if not layers:
        return Finding(name, "pass", "no layer that is told to work in place")
    found = f"{_named(layers)}: outputs are copied before they are overwritten"
    return Finding(name, "note", found, "inplace=False saves the copies")


def _layers(trial: _Trial) -> Finding:
    name = "per-example gradients"
    if layers_with_rules(trial.module) is not None:
        return Finding(name, "pass", "clipped without forming them (one backward pass)")
    odd = [
        n or type(m).__name__
        for n, m in trial.module.named_modules()
        if any(p.requires_grad for p in m.parameters(recurse=False)) and not has_rule(m)
    ]
    found = f"{_named(odd) or 'shared parameters'}: no rule, so each is formed: slower, more memory"
    return Finding(name, "note", found, "nn.Linear, Conv, Embedding and norm layers have rules")


def _gradients(trial: _Trial) -> Finding:
    """Compare clipped sums with one backward pass per example."""
    name = "gradients compared"
    fix = "use parameters only through their layers' forward, without hooks"
    with _seeded(), _quiet(trial.module, is_whole=_has_draws(trial)):
        wanted, norms = _one_by_one(trial)
        bound = float(norms.median()) or 1.0
        factors = (bound / norms.clamp(min=1e-30)).clamp(max=1.0)
        try:
            clipped = Clipper(trial.module, trial.loss)(trial.x, trial.y, bound)
        except Exception as error:
            found = f"clipping raises {_said(error)}"
            return Finding(name, "fail", found, fix)
    if not bool(norms.isfinite().all()):
        return Finding(name, "note", "gradients are not finite at the start", "check the model")
    apart = 0.0
    for rows, ours in zip(wanted, clipped.sums, strict=True):
        exact = (factors @ rows.flatten(1).double()).view(ours.shape)
        scale = max(float(exact.abs().max()), bound / 100)
        apart = max(apart, float((ours.double() - exact).abs().max()) / scale)
    if apart <= _TOLERANCE:
        return Finding(name, "pass", f"clipped sums are one-by-one gradients to {apart:.0e}")
    return Finding(name, "fail", f"clipped sums differ from one-by-one gradients: {apart:.2g}", fix)


def _one_by_one(trial: _Trial) -> tuple[list[Tensor], Tensor]:
    """Return gradients [examples, ...] by parameter, and the norms of whole gradients: float64."""
    parameters = list(_trainable(trial.module).values())
    rows = []
    for i in range(len(trial.x)):
        own = trial.loss(trial.module(trial.x[i : i + 1]), trial.y[i : i + 1])
        found = torch.autograd.grad(own, parameters, allow_unused=True, materialize_grads=True)
        rows.append([g.to_dense() if g.is_sparse else g for g in found])
    columns = [torch.stack(list(column)) for column in zip(*rows, strict=True)]
    squares = [column.flatten(1).double().square().sum(dim=1) for column in columns]
    return columns, torch.stack(squares).sum(dim=0).sqrt()


def _opacus(trial: _Trial) -> Finding:
    """Compare with Opacus, where it takes the model."""
    name = "compared with Opacus"
    if _has_draws(trial):
        return Finding(name, "note", "not done: forward draws random numbers of its own")
    from opacus.grad_sample import GradSampleModule

    try:
        module = copy.deepcopy(trial.module)
        with _seeded(), _quiet(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = GradSampleModule(module, loss_reduction="mean")
            torch.autograd.backward([trial.loss(wrapped(trial.x), trial.y)])
            found = {n: getattr(p, "grad_sample", None) for n, p in module.named_parameters()}
        with _seeded(), _quiet(trial.module):
            wanted, norms = _one_by_one(trial)
    except Exception as error:
        return Finding(name, "note", f"Opacus does not take it: {_said(error)}")
    apart, scale = 0.0, float(norms.max()) or 1.0
    for (n, _), rows in zip(_trainable(trial.module).items(), wanted, strict=True):
        theirs = found.get(n)
        if theirs is not None:
            apart = max(apart, float((theirs - rows).abs().max()) / scale)
    if apart <= _TOLERANCE:
        return Finding(name, "pass", f"the same gradients to {apart:.0e}")
    return Finding(name, "note", f"Opacus differs from one-by-one gradients by {apart:.2g}")


def _engine(module: nn.Module, loss: Loss, x: Tensor, y: Tensor, engine: str) -> Finding:
    """Compare the sums that an engine of Opacus clips with ours, on some examples."""
    name, fix = f"privacy.engine = {engine!r}", "set privacy.engine=fedsim"
    trial = _Trial(copy.deepcopy(module).train(), loss, x, y)
    if _has_draws(trial):
        return Finding(name, "note", "not compared: forward draws random numbers of its own")
    from fedsim.privacy.opacus_clipping import attached

    with _seeded(), _quiet(trial.module):
        ours = Clipper(trial.module, loss)
        bound = float(ours(x, y, 1.0).norms.median()) or 1.0
        wanted = ours(x, y, bound).sums
        try:
            with attached(trial.module, loss, is_ghost=engine == "opacus-ghost") as clip:
                found = clip(x, y, bound).sums
        except Exception as error:
            return Finding(name, "fail", f"Opacus does not take the model: {_said(error)}", fix)
    apart = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) / bound
    if apart <= _TOLERANCE:
        return Finding(name, "pass", f"clipped sums are the same to {apart:.0e}")
    return Finding(name, "fail", f"Opacus clips other sums: {apart:.2g} clipping norms apart", fix)


def _has_draws(trial: _Trial) -> bool:
    with torch.no_grad(), _seeded():
        before = torch.get_rng_state()
        trial.module(trial.x)
        return not torch.equal(before, torch.get_rng_state())


@contextmanager
def _seeded() -> Iterator[None]:
    """Let dropout and torch draw the same in every block of this kind; nothing is drawn outside."""
    with torch.random.fork_rng(devices=[]), dropout.keyed(torch.zeros(2, dtype=torch.int32), 0):
        torch.manual_seed(0)
        yield


@contextmanager
def _quiet(module: nn.Module, *, is_whole: bool = False) -> Iterator[None]:
    """Switch dropout off, or, where forward draws by itself, training as a whole."""
    chosen = [m for m in module.modules() if m.training and (is_whole or isinstance(m, _RANDOM))]
    for each in chosen:
        each.training = False
    try:
        yield
    finally:
        for each in chosen:
            each.training = True


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of everything a module keeps: parameters, buffers, tensors in attributes."""
    found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for where, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, Tensor):
                found[f"{where}.{name}".lstrip(".")] = value
    return {name: value.detach().clone() for name, value in found.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _said(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error) else ''}"
    )


def _plain(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(name or "the model" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


#: In order; what a step finds wrong would make the next ones say it again.
_STEPS: tuple[tuple[Callable[[_Trial], Finding], ...], ...] = (
    (_batch_norm, _recurrent, _types, _embeddings),
    (_state,),
    (_draws, _mixing),
    (_decisions, _unused, _frozen, _tied, _in_place, _layers),
    (_gradients,),
)
