"""Example-level privacy: clients train by DP-SGD, each with an account of its own.

Abadi et al., "Deep learning with differential privacy", CCS 2016, Algorithm 1: every step draws a
Poisson batch, clips each example's gradient, adds Gaussian noise to the sum and divides it by the
number of examples *expected*. A step is what is released; what is made of it later (momentum, a
pull towards the global model, penalties, the mean with other clients' updates) is post-processing.

Neighbours differ by one example whose gradient is zero ("zero-out"), so the sizes of shards are
public, and with them the rate batch size / shard size and the number of steps. Nothing is gained
from who is asked in a round: all of a client's steps in it depend on one draw.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsim.core import ClientContext, Recipe
from fedsim.dropout import replace_dropout
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.noise import Stream, add_gaussian

__all__ = [
    "batch",
    "noisy_mean",
    "release",
    "replace_lstm",
    "steps_of",
    "stream_of",
]


def steps_of(examples: int, recipe: Recipe, *, full_batch: bool = False) -> tuple[int, int]:
    """Return (expected size of a batch, number of steps) of a client in a round.

    `full_batch`: the optimizer wants the whole shard at once.

    >>> steps_of(400, Recipe(epochs=2, batch_size=32))
    (32, 26)
    """
    takes_all = full_batch or not recipe.batch_size
    expected = examples if takes_all else min(recipe.batch_size, examples)
    return expected, recipe.steps or recipe.epochs * math.ceil(examples / expected)


def release(
    examples: int, recipe: Recipe, noise_multiplier: float, *, full_batch: bool = False
) -> Release:
    """Return what a client with so many examples releases in a round.

    >>> release(400, Recipe(batch_size=32), 1.0).sampling.rate
    0.08
    """
    expected, steps = steps_of(examples, recipe, full_batch=full_batch)
    is_sampled = expected < examples
    sampling = Sampling("poisson", expected / examples) if is_sampled else Sampling()
    return Release("gaussian", noise_multiplier, sampling, steps)


def stream_of(ctx: ClientContext) -> Stream:
    """Return the stream of a client's batches and noise in a round: as secret as `ctx.seed` is."""
    return Stream.seeded(ctx.seed, "dp-sgd", round=ctx.round, client=ctx.client)


def batch(stream: Stream, examples: int, expected: int) -> Tensor:
    """Return the next Poisson batch, ascending: int64 [examples drawn], maybe none."""
    if expected >= examples:
        return torch.arange(examples)
    return stream.coins(examples, expected / examples).nonzero().flatten()


def noisy_mean(
    sums: Sequence[Tensor],
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected: int,
    examples: int,
    stream: Stream,
) -> list[Tensor]:
    """Return clipped sums, one per parameter, with noise and divided by the expected batch size.

    Noise is added as integers would be (`noise.add_gaussian`); everything after that, rounding to
    float32 included, is post-processing. `examples`: of the shard, which bounds every sum.
    """
    scale, most = noise_multiplier * clipping_norm, clipping_norm * examples
    noisy = [add_gaussian(own.cpu(), scale, stream, bound=most) for own in sums]
    return [own.div_(expected).to(old) for own, old in zip(noisy, sums, strict=True)]


def replace_lstm(module: nn.Module) -> nn.Module:
    """Put Opacus's LSTM, of dense layers, in the place of every `nn.LSTM`; return the module.

    torch's own has no gradient per example. Weights, their names and their order stay; whoever
    remembers where the module's numbers are (`fedsim.models` does) has to be told: call it through
    `models.build`. Raises `ValueError` for what Opacus has no form of (projections).
    """
    for name, child in module.named_children():
        if type(child) is nn.LSTM:
            setattr(module, name, _as_dense(child))
        else:
            replace_lstm(child)
    return _as_dense(module) if type(module) is nn.LSTM else module


def _as_dense(layer: nn.LSTM) -> nn.Module:
    if layer.proj_size:
        raise ValueError("an LSTM with projections has no form with gradients per example")
    from opacus.layers import DPLSTM

    made: nn.Module = DPLSTM(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
    )
    own = dict(made._parameters)
    made._parameters.clear()  # Opacus registers them in the order of its cells
    for name, parameter in layer.named_parameters():
        found = own[name]
        assert found is not None
        found.data.copy_(parameter.data)
        found.requires_grad_(parameter.requires_grad)
        made._parameters[name] = found
    return replace_dropout(made).train(layer.training)
