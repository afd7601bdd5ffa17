"""DP-SGD of many clients at once: examples' gradients clipped, parameters stacked.

As in `fedsim.privacy.clipping` a layer's clipped sum follows from what the layer took in and from
the gradients of what it put out, and no example's gradient need be formed: the forward pass is one
`vmap` over clients, in which every layer notes both, the backward pass stops at the layers'
outputs, and the sums over examples are one batched product over all clients. Where a layer has no
such rule, gradients per example are one more `vmap`, over the examples of each client.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim import dropout
from fedsim.clients.dp_sgd import Means, mean_maker, norm_of
from fedsim.core import ClientContext, Memo, Recipe, Task
from fedsim.losses import Loss
from fedsim.privacy.clipping import (
    Clipped,
    example_losses,
    factors,
    layers_with_rules,
    one_example,
    part_of,
)
from fedsim.training import client_keys, take_step
from fedsim.vectorized.change import Change, take_rows
from fedsim.vectorized.schedule import Schedule, Step
from fedsim.vectorized.stacked import memos_of, start_state

__all__ = ["Batches", "StackedClipper", "fit_clipped"]

#: What layers took in or put out, call by call.
_Calls = dict[nn.Module, list[Tensor]]

_MOST_FORMED = 2**28  # numbers of examples' gradients at a time, were all of them formed


@dataclass(frozen=True, slots=True)
class Batches:
    """One batch of each of some clients: `x`, `y` [clients, width, ...], `mask` [clients, width].

    Masked examples do not count. `keys` [clients, 2] and `number`, the step's, draw the dropout.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    keys: Tensor
    number: int


def fit_clipped(
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    places: Tensor,
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
) -> tuple[Change, Tensor, list[Memo]]:
    """`fit_stacked` for DP-SGD: with the batches and the noise that each client draws alone."""
    module, clipping = task.module.train(), recipe.clipping
    assert clipping is not None
    anchors = [p.detach().contiguous() for p in module.parameters() if p.requires_grad]
    stacked = [p.expand(len(places), *p.shape).clone() for p in anchors]
    state, clip = start_state(task, recipe, stacked, memos), StackedClipper(module, task.loss)
    keys = torch.from_numpy(client_keys(contexts)).to(task.x.device)
    makers = [
        mean_maker(clipping, ctx, expected, size)
        for ctx, expected, size in zip(contexts, schedule.expected, schedule.sizes, strict=True)
    ]
    totals = torch.zeros(len(places), dtype=torch.float64, device=task.x.device)
    for number, step in enumerate(schedule.steps):
        parameters = [p[: step.clients] for p in stacked]
        sums: list[Tensor] = []
        for rows, width in _shares(step, sum(p.numel() for p in anchors)):
            chosen = places[rows].gather(1, step.index[rows, :width])
            is_real = torch.arange(width, device=rows.device) < step.counts[rows].unsqueeze(1)
            x, y = take_rows(task.x, chosen), task.y[chosen]
            is_whole = len(rows) == step.clients
            own = parameters if is_whole else [p[rows] for p in parameters]
            clipped = clip(own, Batches(x, y, is_real, keys[rows], number), norm_of(clipping))
            sums = clipped.sums if is_whole else _placed(sums, rows, clipped.sums, parameters)
            totals[rows] += torch.where(is_real, clipped.losses, 0.0).double().sum(dim=1)
        sums = sums or [torch.zeros_like(p) for p in parameters]  # no client has a batch
        _make_means(sums, makers)
        current = {name: [t[: step.clients] for t in tensors] for name, tensors in state.items()}
        take_step(task, recipe, parameters, sums, anchors, current, contexts[0].lr_factor)
    torch._foreach_sub_(stacked, anchors)
    return Change(module, stacked), totals / schedule.seen, memos_of(state, recipe, len(places))


def _shares(step: Step, parameters: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (rows, width): who is computed together."""
    for rows, width in step.buckets:
        for share in torch.split(rows, max(1, _MOST_FORMED // (width * parameters))):
            yield share, width


def _placed(
    sums: list[Tensor], rows: Tensor, parts: list[Tensor], parameters: list[Tensor]
) -> list[Tensor]:
    """Put some clients' sums at their places; zero stands where none is yet."""
    sums = sums or [torch.zeros_like(p) for p in parameters]
    for total, part in zip(sums, parts, strict=True):
        total[rows] = part
    return sums


@torch.no_grad()
def _make_means(sums: list[Tensor], makers: Sequence[Means]) -> None:
    """Make noisy means of clipped sums, in place: client by client, as each draws its own noise."""
    for own, means in zip(zip(*sums, strict=True), makers, strict=False):
        torch._foreach_copy_(list(own), means(list(own)))


class StackedClipper:
    """`fedsim.privacy.clipping.Clipper` for clients that have parameters of their own."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self._module, self._loss = module, loss
        self._named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._layers = layers_with_rules(module)
        self._copies = False

    def __call__(self, stacked: list[Tensor], batches: Batches, clipping_norm: float) -> Clipped:
        """Return clipped sums [clients, ...], norms and losses [clients, width]."""
        if self._layers is None:
            return self._by_example(stacked, batches, clipping_norm)
        return self._by_layer(stacked, batches, clipping_norm)

    def _by_layer(self, stacked: list[Tensor], batches: Batches, clipping_norm: float) -> Clipped:
        """One pass forward and one back."""
        output, taken, put = self._forward(stacked, batches)
        each = example_losses(self._loss, output.flatten(0, 1), batches.y.flatten(0, 1))
        outputs = [own for calls in put.values() for own in calls]
        if any(own._version for own in outputs):
            self._copies = True  # the module works in place: it gets copies from now on
            return self._by_layer(stacked, batches, clipping_norm)
        found = iter(torch.autograd.grad(each.sum(), outputs, materialize_grads=True))
        flat = {
            layer: [(a.flatten(0, 1), next(found).flatten(0, 1)) for a in calls]
            for layer, calls in taken.items()
        }
        with torch.no_grad():
            sums, norms = self._sums(flat, batches.mask, clipping_norm)
        return Clipped(sums, norms, each.detach().view(batches.mask.shape))

    def _forward(self, stacked: list[Tensor], batches: Batches) -> tuple[Tensor, _Calls, _Calls]:
        """Return outputs, and what the layers took in and put out: all [clients, width, ...]."""

        def one(
            own: list[Tensor], x: Tensor, key: Tensor, zero: Tensor
        ) -> tuple[Tensor, _Calls, _Calls]:
            taken: _Calls = {}
            put: _Calls = {}

            def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                seen = output + zero
                taken.setdefault(layer, []).append(inputs[0].detach())
                put.setdefault(layer, []).append(seen)
                return seen.clone() if self._copies else seen

            handles = [layer.register_forward_hook(note) for layer in self._layers or []]
            try:
                with dropout.keyed(key, batches.number):
                    output = functional_call(self._module, self._by_name(own), (x,))
            finally:
                for handle in handles:
                    handle.remove()
            return output, taken, put

        # No parameter needs a gradient, but what layers put out does. And with a client's zero
        # added, outputs have their clients' axis first: vmap returns the very tensors of the graph.
        zeros = stacked[0].new_zeros(len(stacked[0]), requires_grad=True)
        found: tuple[Tensor, _Calls, _Calls] = vmap(one)(stacked, batches.x, batches.keys, zeros)
        return found

    def _sums(
        self, flat: dict[nn.Module, list[tuple[Tensor, Tensor]]], mask: Tensor, norm: float
    ) -> tuple[list[Tensor], Tensor]:
        """Return clipped sums and norms from layers' inputs and their outputs' gradients."""
        parts = [part_of(layer, pairs) for layer, pairs in flat.items()]
        norms = torch.stack([part.squares for part in parts]).sum(dim=0).sqrt()
        good = norms.isfinite()
        if not good.all():  # zero times NaN is NaN
            parts = [
                part_of(layer, [(_only(good, a), _only(good, g)) for a, g in pairs])
                for layer, pairs in flat.items()
            ]
        weights = factors(norms, norm).view(mask.shape) * mask
        sums: dict[nn.Parameter, Tensor] = {}
        for part in parts:
            sums |= part.sums(weights)
        ordered = [
            sums[p] if p in sums else p.new_zeros(len(mask), *p.shape) for p in self._named.values()
        ]
        return ordered, norms.view(mask.shape)

    def _by_example(self, stacked: list[Tensor], batches: Batches, clipping_norm: float) -> Clipped:
        """One more vmap: every example's gradient is formed."""
        with dropout.keyed(batches.keys, batches.number):
            keys, number = dropout.example_keys(batches.mask.shape[1])
        one = grad(one_example(self._module, self._loss, number), has_aux=True)
        over = vmap(vmap(one, in_dims=(None, 0, 0, 0)))
        with warnings.catch_warnings():  # it works, one example at a time inside torch
            warnings.filterwarnings("ignore", "There is a performance drop")
            found, each = over(self._by_name(stacked), batches.x, batches.y, keys)
        gradients = [g.reshape(*batches.mask.shape, -1) for g in found.values()]
        norms = torch.stack([g.square().sum(dim=2) for g in gradients]).sum(dim=0).sqrt()
        weights = (factors(norms, clipping_norm) * batches.mask).unsqueeze(1)
        if not (good := norms.isfinite().unsqueeze(2)).all():
            gradients = [torch.where(good, g, 0.0) for g in gradients]
        sums = [
            torch.bmm(weights, g).view(p.shape) for g, p in zip(gradients, stacked, strict=True)
        ]
        return Clipped(sums, norms, each.detach())

    def _by_name(self, parameters: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._named, parameters, strict=True))


def _only(good: Tensor, own: Tensor) -> Tensor:
    """Leave zeros where an example's gradient is not finite."""
    return torch.where(good.view(-1, *[1] * (own.dim() - 1)), own, 0)
