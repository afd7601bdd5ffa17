"""DP-SGD: local training that clips every example's gradient and adds noise to every step.

Abadi et al., "Deep learning with differential privacy", CCS 2016, Algorithm 1: batches are drawn by
Poisson sampling, gradients are clipped to `clipping_norm` in L2 norm, summed, Gaussian noise of
standard deviation `noise_multiplier` x `clipping_norm` is added to the sum, and the result is
divided by the expected batch size.

As a local algorithm of its own its noise comes from the experiment's seed and from a quick
generator: it shows what privacy costs and gives none. `privacy.unit = "example"` makes the steps of
any other local algorithm like these, with noise that is accounted (`fedsim.privacy.example`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedsim import dropout, outer, rng, training
from fedsim.core import ClientContext, Clipping, Memo, OptimizerState, Recipe, Task, Update
from fedsim.models import get_change
from fedsim.privacy import example
from fedsim.privacy.clipping import Clipped, Clipper, mixes_examples
from fedsim.privacy.margin import bound
from fedsim.privacy.sampling import poisson_batch
from fedsim.privacy.seeded_noise import SeededNoise

__all__ = ["DpSgd", "mean_maker", "noise_of", "norm_of", "train_clipped"]

#: (clipped sums, one per parameter) -> gradients of a step, with noise
Means = Callable[[list[Tensor]], list[Tensor]]
#: (inputs, targets, clipping norm) -> clipped sums of a batch
Clip = Callable[[Tensor, Tensor, float], Clipped]


@dataclass(frozen=True, slots=True)
class DpSgd:
    """Like `sgd`, with examples' gradients clipped and noise added, in Poisson-sampled batches.

    Each example is in a batch with probability q = `batch_size` / examples (0: always), whatever
    else is; `epochs` is 1 / q batches, rounded up, so often; `steps` sets their number instead.
    The noise is seeded, hence simulated: not private, and no epsilon is accounted for it.
    `examples_at_once`: a batch is computed in pieces of so many examples, where memory is short.
    """

    clipping_norm: Annotated[float, Gt(0)] = 1.0
    noise_multiplier: Annotated[float, Ge(0)] = 1.0
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32
    keep_optimizer: bool = False
    examples_at_once: Annotated[int, Ge(1)] | None = None

    #: Said wherever a run with this algorithm is shown.
    notice: ClassVar[str] = (
        "DP-SGD with seeded noise: simulated, not private. No epsilon is accounted for this run."
    )
    #: What it does to gradients is tested with it; in the contract tests it has to learn.
    contract: ClassVar = {"noise_multiplier": 0.0, "clipping_norm": 1e6}

    @property
    def recipe(self) -> Recipe:
        """Return the steps of local training: the engine may take those of many clients at once."""
        clipping = Clipping(
            self.clipping_norm, self.noise_multiplier, at_once=self.examples_at_once
        )
        steps = self.epochs, self.steps, self.batch_size, self.keep_optimizer
        return Recipe(*steps, clipping=clipping)

    def refuses(self, module: nn.Module) -> str:
        """Say why a model cannot be trained like this, "" if it can."""
        return mixes_examples(module)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update weighs as many as there are examples."""
        return train_clipped(task, memo, ctx, self.recipe)


def train_clipped(
    task: Task, memo: Memo, ctx: ClientContext, recipe: Recipe
) -> tuple[Update, Memo]:
    """Train the task's module by a recipe with clipping; return its change and what to remember."""
    state = task.optimizer.start(training.trainable(task.module))
    if recipe.keep_optimizer:
        training.restore_optimizer(state, memo)
    factored = _factored(task, recipe, state)
    with (
        rng.torch_stream(ctx.seed, "dropout", round=ctx.round, client=ctx.client),
        _clipping_of(task, recipe, factored) as clip,
    ):
        loss = _descend(task, recipe, state, ctx, clip, factored)
    metrics = {"examples": float(len(task.y))} | ({} if loss is None else {"loss": loss})
    vector = get_change(task.module, task.model).cpu()
    update = Update(vector, weight=float(len(task.y)), metrics=metrics)
    return update, training.save_optimizer(state) if recipe.keep_optimizer else {}


def _factored(task: Task, recipe: Recipe, state: OptimizerState) -> list[nn.Linear]:
    """List the layers whose clipped sums need not be formed: they are stepped by products."""
    clipping = recipe.clipping
    assert clipping is not None
    is_ours = clipping.engine == "fedsim" and clipping.source == "torch" and not clipping.at_once
    if not is_ours or _clipper(task.module, cast(Any, task.loss)).forms_gradients:
        return []
    return outer.layers_of(task, recipe, state)


@contextmanager
def _clipping_of(task: Task, recipe: Recipe, factored: Sequence[nn.Linear]) -> Iterator[Clip]:
    """Provide what clips a batch; where that is Opacus, its hooks are on the module meanwhile."""
    assert recipe.clipping is not None
    task.module.train()
    engine, loss = recipe.clipping.engine, cast(Any, task.loss)
    if engine == "fedsim":
        yield partial(_clipper(task.module, loss), factored=factored)
        return
    from fedsim.privacy.opacus_clipping import attached  # some seconds to import

    with attached(task.module, loss, is_ghost=engine == "opacus-ghost") as clip:
        yield clip


def _descend(
    task: Task,
    recipe: Recipe,
    state: OptimizerState,
    ctx: ClientContext,
    clip: Clip,
    factored: Sequence[nn.Linear],
) -> float | None:
    """Take all steps; return the mean loss of the examples seen, None if none was."""
    clipping, size = recipe.clipping, len(task.y)
    assert clipping is not None
    expected, steps = example.steps_of(size, recipe, full_batch=task.optimizer.full_batch)
    parameters = training.trainable(task.module)
    anchors = [p.detach().clone() for p in parameters] if recipe.adjust else []
    keys = torch.from_numpy(training.client_keys([ctx])).to(task.x.device)
    draw = _drawer(clipping, ctx, keys, size, expected)
    is_plain = clipping.source == "torch" and outer.is_plain(task, recipe, state)
    means = None if is_plain else mean_maker(clipping, ctx, expected, size)
    noise = noise_of(ctx)
    move = outer.move_of(task.optimizer, ctx.lr_factor) / expected if is_plain else 0.0
    total, seen = 0.0, 0
    for number in range(steps):
        chosen = draw(number).to(task.x.device)
        with dropout.keyed(keys[0], number), outer.taped(factored):  # a tape that nobody reads
            clipped = _clipped(clip, task, chosen, clipping)
        if means is None:
            _step_in_place(parameters, factored, clipped, move, clipping, noise)
        else:
            gradients = means(clipped.sums)
            training.take_step(task, recipe, parameters, gradients, anchors, state, ctx.lr_factor)
        total += float(clipped.losses.double().sum())
        seen += len(chosen)
    return total / seen if seen else None


@torch.no_grad()
def _step_in_place(
    parameters: Sequence[Tensor],
    factored: Sequence[nn.Linear],
    clipped: Clipped,
    move: float,
    clipping: Clipping,
    noise: SeededNoise,
) -> None:
    """Take a step of plain SGD: add `move` x (clipped sum + noise), forming neither as a whole."""
    sums, weights = iter(clipped.sums), {id(layer.weight) for layer in factored}
    for parameter in parameters:
        if id(parameter) not in weights:
            parameter.add_(next(sums), alpha=move)
        for product in clipped.products:
            if product.layer.weight is parameter:
                outer.add_product(product.layer, product.gradient, product.x, move)
    if clipping.noise_multiplier:
        noise.add(parameters, move * clipping.noise_multiplier * clipping.clipping_norm)


def _clipped(clip: Clip, task: Task, chosen: Tensor, clipping: Clipping) -> Clipped:
    """Return the clipped sums of a batch, computed in pieces where that is asked for.

    A step sees the sum over the whole batch, however large Poisson sampling made it: what Opacus
    calls a virtual step.
    """
    norm = norm_of(clipping)
    pieces = torch.split(chosen, clipping.at_once) if clipping.at_once else (chosen,)
    whole = clip(task.x[pieces[0]], task.y[pieces[0]], norm)
    for piece in pieces[1:]:
        part = clip(task.x[piece], task.y[piece], norm)
        torch._foreach_add_(whole.sums, part.sums)
        norms, losses = (
            torch.cat([getattr(whole, name), getattr(part, name)]) for name in ("norms", "losses")
        )
        whole = Clipped(whole.sums, norms, losses)
    return whole


def norm_of(clipping: Clipping) -> float:
    """Return the norm that gradients are clipped to."""
    is_simulated = clipping.source == "torch"
    return clipping.clipping_norm if is_simulated else bound(clipping.clipping_norm)


def _drawer(
    clipping: Clipping, ctx: ClientContext, keys: Tensor, size: int, expected: int
) -> Callable[[int], Tensor]:
    """Return what draws the batch of each step, called once for each in turn."""
    if clipping.source == "torch":
        return lambda number: poisson_batch(keys, size, expected / size, number)
    stream = example.stream_of(ctx)
    return lambda number: example.batch(stream, size, expected)


def mean_maker(clipping: Clipping, ctx: ClientContext, expected: int, size: int) -> Means:
    """Return what makes noisy means of a client's clipped sums, step after step."""
    norm, multiplier = clipping.clipping_norm, clipping.noise_multiplier
    if clipping.source == "torch":
        scale = multiplier * norm / expected
        return partial(_noised, expected=expected, scale=scale, noise=noise_of(ctx))
    return partial(
        example.noisy_mean,
        clipping_norm=norm,
        noise_multiplier=multiplier,
        expected=expected,
        examples=size,
        stream=example.stream_of(ctx),
    )


def _noised(sums: list[Tensor], expected: int, scale: float, noise: SeededNoise) -> list[Tensor]:
    """Return the gradients of a step: noise of standard deviation `scale` on the mean."""
    means = list(torch._foreach_div(sums, float(expected)))
    if scale:
        noise.add(means, scale)
    return means


def noise_of(ctx: ClientContext) -> SeededNoise:
    """Return what a client draws its noise from in a round."""
    return SeededNoise(rng.derive(ctx.seed, "noise", round=ctx.round, client=ctx.client))


@lru_cache(maxsize=2)
def _clipper(module: nn.Module, loss: Any) -> Clipper:
    return Clipper(module, loss)
