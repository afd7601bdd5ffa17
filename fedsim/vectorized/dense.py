"""Local training of many clients at once for chains of dense layers, with or without factors.

Stacked: a dense layer is one batched matrix product over the clients' own weights.

Factored (low rank): every client starts from the same weights W0, and gradients of a dense layer
are sums over examples of (output gradient) x (input). So its weights stay W0 + A' X, with the
layer's past inputs X and coefficients A, and are never formed: pre-activations are
`x W0' + b0 + (x X' + 1) A`, a sum of weights over clients is one matrix product of all A and X, and
norms come from Gram matrices. That is exact for every optimizer whose steps are linear in the
gradients (SGD, with momentum too): it steps the coefficients in place of the weights. The inputs of
a first layer are the client's examples, so their Gram matrix is computed once for all epochs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsim import dropout, products
from fedsim.core import ClientContext, Memo, Recipe, Task
from fedsim.data import numbers
from fedsim.training import client_keys, take_step
from fedsim.vectorized.change import flat_like, largest_of, take_rows
from fedsim.vectorized.linear import stacked_linear
from fedsim.vectorized.schedule import Schedule, Step
from fedsim.vectorized.stacked import client_losses, memos_of, start_state

__all__ = ["DenseChange", "fit_factored", "fit_products", "layers_of", "pays_off", "suits"]

_PIECE = 2**19  # numbers computed with at a time: 2 MB, near to what a core has close by
_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Identity,
    dropout.Dropout,
)


@dataclass(slots=True)
class _Stacked:
    """A dense layer of which every client has its own weights [clients, out, in]."""

    weight: Tensor
    bias: Tensor | None

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


@dataclass(slots=True)
class _Factored:
    """A dense layer as W0 + A' X: `inputs` X [clients, slots, in], `coefficients` A [.., out].

    For a first layer a slot is an example, and what its steps need of X is known before the first:
    `base` is X W0' + b0, `gram` X X' + 1, `largest` [clients] bounds |x|. Where all examples
    come once and in order (`is_once`), `gram` holds only products with those of steps before. The
    inputs may be bytes (`pixels`). For a deeper layer a slot is an example in a step, filled as
    steps are taken.
    """

    linear: nn.Linear
    inputs: Tensor
    coefficients: Tensor
    base: Tensor | None = None
    gram: Tensor | None = None
    largest: Tensor | None = None
    pixels: tuple[float, float] | None = None
    is_once: bool = False

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield clients and their inputs, as many at a time as stay in a processor's cache.

        The next piece may overwrite the one before.
        """
        clients, slots, wide = self.inputs.shape
        is_cached = self.inputs.device.type == "cpu"
        each = max(1, min(clients, _PIECE // (slots * wide)) if is_cached else clients)
        memory = None if self.pixels is None else self.coefficients.new_empty(each, slots, wide)
        for first in range(0, clients, each):
            own = slice(first, min(first + each, clients))
            x = self.inputs[own]
            yield own, x if memory is None else self._numbers(x, memory[: len(x)])

    def _numbers(self, stored: Tensor, memory: Tensor) -> Tensor:
        """Write into `memory` what `fedsim.data.numbers` returns, in one pass fewer."""
        assert self.pixels is not None
        scale, shift = self.pixels
        memory.copy_(stored)
        return torch.add(memory.new_tensor(shift), memory, alpha=scale, out=memory)

    def full_gram(self) -> Tensor:
        if self.gram is not None and not self.is_once:
            return self.gram
        parts = [torch.bmm(x, x.transpose(1, 2)) for _, x in self.pieces()]
        return torch.cat(parts) + (0.0 if self.linear.bias is None else 1.0)


def suits(module: nn.Module, input_shape: Sequence[int]) -> bool:
    """Say whether a module is a chain of dense layers on one vector per example."""
    layers = layers_of(module) or [module]
    is_flat = len(input_shape) == 1 or type(layers[0]) is nn.Flatten
    return is_flat and layers_of(module) is not None


def layers_of(module: nn.Module) -> list[nn.Module] | None:
    """Return a module's layers where it is a chain of dense layers and activations, else None."""
    if isinstance(module, nn.Sequential):
        found: list[nn.Module] = []
        for child in module:
            inner = layers_of(child)
            if inner is None:
                return None
            found += inner
        return found
    if type(module) is nn.Linear:
        return [module] if all(p.requires_grad for p in module.parameters()) else None
    is_flatten = type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    return [module] if is_flatten or type(module) in _ELEMENTWISE else None


def pays_off(module: nn.Module, examples: int) -> bool:
    """Say whether factors are smaller than weights for clients with so many examples."""
    layers = layers_of(module) or []
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return bool(dense) and 2 * examples <= dense[0].in_features


def fit_products(
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    places: Tensor,
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
) -> tuple["DenseChange", Tensor, list[Memo]]:
    """`fit_stacked` for chains of dense layers, by batched products: no vmap, no factors."""
    return _fit(task, recipe, schedule, places, memos, contexts, is_factored=False)


def fit_factored(
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    places: Tensor,
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
) -> tuple["DenseChange", Tensor, list[Memo]]:
    """`fit_products`, with factors for every layer where they are smaller than the weights."""
    return _fit(task, recipe, schedule, places, memos, contexts, is_factored=True)


@dataclass(frozen=True, slots=True)
class DenseChange:
    """How clients' dense layers changed: see `fedsim.vectorized.change.Change`."""

    module: nn.Module
    layers: list[_Stacked | _Factored]

    def largest(self) -> Tensor:
        """Bound each client's largest absolute coordinate from above; NaN stays NaN."""
        bounds = []
        for layer in self.layers:
            if isinstance(layer, _Factored):
                bounds.append(_bound(layer))
            else:
                bounds += [largest_of(p) for p in layer.parameters]
        return torch.stack(bounds).amax(dim=0)

    def norms(self) -> Tensor:
        """Return the L2 norm of each client's whole update: [clients]."""
        squares = []
        for layer in self.layers:
            if isinstance(layer, _Factored):
                squares.append(_squares(layer))
            else:
                squares += [p.flatten(1).square().sum(dim=1) for p in layer.parameters]
        return torch.stack(squares).sum(dim=0).sqrt()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the sum of weight x update, flat float64; of weight 0 not even NaN enters."""
        chosen = None if bool((weights != 0).all()) else weights.nonzero().flatten()
        own = weights if chosen is None else weights[chosen]
        parts: list[Tensor] = []
        for layer in self.layers:
            parts += _sums(layer if chosen is None else _rows(layer, chosen), own.float())
        return flat_like(self.module, parts).double().cpu()

    def vectors(self) -> Tensor:
        """Return every client's update, on its device: float32 [clients, model]."""
        rows = []
        for i in range(len(_leading(self.layers[0]))):
            parts: list[Tensor] = []
            for layer in self.layers:
                own = _rows(layer, torch.tensor([i], device=_leading(layer).device))
                parts += _sums(own, torch.ones(1, device=_leading(layer).device))
            rows.append(flat_like(self.module, parts))
        return torch.stack(rows).float()


def _fit(
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    places: Tensor,
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
    *,
    is_factored: bool,
) -> tuple[DenseChange, Tensor, list[Memo]]:
    chain = layers_of(task.module.train())
    assert chain is not None
    layers = _start(chain, task, places, schedule, is_factored=is_factored)
    dense = list(layers.values())
    is_known = any(isinstance(layer, _Factored) and layer.base is not None for layer in dense)
    x = task.x if is_known or task.pixels is None else numbers(task.x, task.pixels)
    anchors = [p.detach() for layer in chain for p in layer.parameters()]
    state = start_state(task, recipe, [p for layer in dense for p in _steppable(layer)], memos)
    keys = torch.from_numpy(client_keys(contexts)).to(task.x.device)
    totals = torch.zeros(len(places), dtype=torch.float64, device=task.x.device)
    slot = 0
    for number, step in enumerate(schedule.steps):
        active = slice(step.clients)
        at = _At(step, slot)
        with dropout.keyed(keys[active], number):
            output, sources = _forward(chain, layers, x, places, at)
        each = client_losses(task, output, step.of(task.y, places), step)
        found = torch.autograd.grad(each.sum(), [s for group in sources for s in group])
        own = {name: [t[active] for t in tensors] for name, tensors in state.items()}
        parameters, gradients = _stepping(dense, sources, found, at, is_whole=bool(state))
        take_step(task, recipe, parameters, gradients, anchors, own, contexts[0].lr_factor)
        if not state:
            _displace(dense, parameters, at)
        totals[active] += each.detach().double() * step.counts
        slot += step.width
    kept = memos_of(state, recipe, len(places))
    _subtract(chain, layers)
    return DenseChange(task.module, dense), totals / schedule.seen, kept


@torch.no_grad()
def _start(
    chain: list[nn.Module], task: Task, places: Tensor, schedule: Schedule, *, is_factored: bool
) -> dict[int, _Stacked | _Factored]:
    """Choose each dense layer's form: by its place in the chain."""
    clients, most = places.shape
    slots = sum(step.index.shape[1] for step in schedule.steps)
    layers: dict[int, _Stacked | _Factored] = {}
    for place, linear in enumerate(chain):
        if not isinstance(linear, nn.Linear):
            continue
        wide, high = linear.in_features, linear.out_features
        is_first = all(type(layer) is nn.Flatten for layer in chain[:place])
        if is_factored and is_first and 2 * most <= wide:
            inputs = take_rows(task.x, places).flatten(2)
            layers[place] = _first(linear, inputs, task.pixels, schedule.steps)
        elif is_factored and not is_first and 2 * slots * (wide + high) <= wide * high:
            inputs, own = (linear.weight.new_zeros(clients, slots, n) for n in (wide, high))
            layers[place] = _Factored(linear, inputs, own)
        else:
            weight = linear.weight.expand(clients, -1, -1).clone()
            bias = None if linear.bias is None else linear.bias.expand(clients, -1).clone()
            layers[place] = _Stacked(weight, bias)
    return layers


def _first(
    linear: nn.Linear, inputs: Tensor, pixels: tuple[float, float] | None, steps: Sequence[Step]
) -> _Factored:
    """Begin a first layer: read the examples once, and note all that its steps need of them."""
    clients, most, _ = inputs.shape
    weight, bias = linear.weight.detach(), _detached(linear.bias)
    base = weight.new_empty(clients, most, len(weight))
    coefficients, gram = torch.zeros_like(base), weight.new_zeros(clients, most, most)
    largest = weight.new_full((clients,), _largest_pixel(pixels) if pixels else 0.0)
    starts = [step.start for step in steps]
    is_once = None not in starts
    layer = _Factored(linear, inputs, coefficients, base, gram, largest, pixels, is_once)
    for own, x in layer.pieces():
        base[own] = products.linear(x, weight, bias)
        if pixels is None:
            largest[own] = largest_of(x)
        for start, step in zip(starts, steps, strict=True):
            if start is None or not is_once:
                continue
            these = slice(start, start + step.width)
            gram[own, these, :start] = torch.bmm(x[:, these], x[:, :start].transpose(1, 2))
        if not is_once:
            gram[own] = torch.bmm(x, x.transpose(1, 2))
    if bias is not None:
        gram += 1.0
    return layer


def _largest_pixel(pixels: tuple[float, float]) -> float:
    """Bound the numbers that bytes become."""
    scale, shift = pixels
    return max(abs(shift), abs(255 * scale + shift))


@dataclass(frozen=True, slots=True)
class _At:
    """A step, and the first of the slots it fills in layers that have one for each of its examples.

    Those of a first layer are its examples: in the order of a first pass they are the same slots.
    """

    step: Step
    slot: int

    @property
    def clients(self) -> int:
        return self.step.clients

    @property
    def slots(self) -> slice:
        return slice(self.slot, self.slot + self.step.width)


def _forward(
    chain: list[nn.Module],
    layers: dict[int, _Stacked | _Factored],
    x: Tensor,
    places: Tensor,
    at: _At,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the outputs, and per dense layer the tensors whose gradients its step needs."""
    active = slice(at.clients)
    sources: list[list[Tensor]] = []
    h: Tensor | None = None  # until something needs the inputs themselves
    for place, module in enumerate(chain):
        layer = layers.get(place)
        if isinstance(layer, _Factored) and layer.base is not None:
            h = _known(layer, at)
            sources.append([h])
            continue
        if h is None:
            if type(module) is nn.Flatten:
                continue
            h = at.step.of(x, places).flatten(2)
        if isinstance(layer, _Factored):
            layer.inputs[active, at.slots] = h.detach()
            h = _remembered(layer, h, at)
            sources.append([h])
        elif isinstance(layer, _Stacked):
            own = [p[active].detach().requires_grad_() for p in layer.parameters]
            h = stacked_linear(h, *own)
            sources.append(own)
        else:
            h = h if type(module) is nn.Flatten else module(h)
    assert h is not None
    return h, sources


@torch.no_grad()
def _known(layer: _Factored, at: _At) -> Tensor:
    """Pre-activations of a first layer, from what was computed before the first step."""
    assert layer.base is not None
    assert layer.gram is not None
    base = at.step.take(layer.base)
    if at.slot == 0:  # nobody has moved yet
        return base.detach().requires_grad_()
    seen = at.slot if layer.is_once else None  # beyond, nothing has moved
    gram = at.step.take(layer.gram)[:, :, :seen]
    return torch.baddbmm(base, gram, layer.coefficients[: at.clients, :seen]).requires_grad_()


def _remembered(layer: _Factored, h: Tensor, at: _At) -> Tensor:
    """Pre-activations of a deeper layer, from its inputs in all steps so far."""
    base = nn.functional.linear(h, layer.linear.weight.detach(), _detached(layer.linear.bias))
    if at.slot == 0:
        return base if base.requires_grad else base.requires_grad_()
    before = slice(at.clients), slice(at.slot)
    similar = torch.bmm(h, layer.inputs[before].transpose(1, 2))
    if layer.linear.bias is not None:
        similar = similar + 1.0
    return torch.baddbmm(base, similar, layer.coefficients[before])


def _stepping(
    dense: list[_Stacked | _Factored],
    sources: list[list[Tensor]],
    found: Sequence[Tensor],
    at: _At,
    *,
    is_whole: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what the optimizer steps, and the gradients of it from those of `sources`.

    Of a factored layer: all coefficients where the optimizer remembers (`is_whole`); else zeros,
    which it turns into the displacement of the step's own, whatever they are.
    """
    parameters: list[Tensor] = []
    gradients: list[Tensor] = []
    remaining = iter(found)
    for layer, group in zip(dense, sources, strict=True):
        own = [next(remaining) for _ in group]
        if isinstance(layer, _Stacked):
            parameters += [p[: at.clients] for p in layer.parameters]
            gradients += own
        elif is_whole:
            parameters.append(layer.coefficients[: at.clients])
            gradients.append(torch.zeros_like(parameters[-1]))
            _put(layer, gradients[-1], own[0], at)
        else:
            parameters.append(torch.zeros_like(own[0]))
            gradients += own
    return parameters, gradients


@torch.no_grad()
def _displace(dense: list[_Stacked | _Factored], moved: Sequence[Tensor], at: _At) -> None:
    """Add to the coefficients of factored layers what a step moved them by."""
    remaining = iter(moved)
    for layer in dense:
        own = [next(remaining) for _ in _steppable(layer)]
        if isinstance(layer, _Factored):
            _put(layer, layer.coefficients[: at.clients], own[0], at)


def _put(layer: _Factored, whole: Tensor, own: Tensor, at: _At) -> None:
    """Add a step's rows where they belong among all; padding repeats a row and adds zero."""
    if layer.gram is None or layer.is_once:
        whole[:, at.slots] += own
    else:
        rows = at.step.flat(whole.shape[1])
        whole.flatten(0, 1).index_add_(0, rows, own.flatten(0, 1))


def _steppable(layer: _Stacked | _Factored) -> list[Tensor]:
    return [layer.coefficients] if isinstance(layer, _Factored) else layer.parameters


@torch.no_grad()
def _subtract(chain: list[nn.Module], layers: dict[int, _Stacked | _Factored]) -> None:
    """Turn stacked weights into their change, in place."""
    for place, layer in layers.items():
        if isinstance(layer, _Stacked):
            for own, shared in zip(layer.parameters, chain[place].parameters(), strict=True):
                own.sub_(shared)


def _squares(layer: _Factored) -> Tensor:
    """Return each client's squared norm of weight and bias: the trace of A' (X X' + 1) A."""
    a = layer.coefficients
    return (torch.bmm(layer.full_gram(), a) * a).sum(dim=(1, 2)).clamp(min=0)


def _bound(layer: _Factored) -> Tensor:
    """Bound each client's largest coordinate: of A' X, that of X times the largest sum of |A|."""
    rows = layer.coefficients.abs().sum(dim=1).amax(dim=1)
    largest = largest_of(layer.inputs) if layer.largest is None else layer.largest
    return rows * largest.clamp(min=1.0)  # 1 is the input of a bias


@torch.no_grad()
def _sums(layer: _Stacked | _Factored, weights: Tensor) -> list[Tensor]:
    """Return the weighted sums over clients of a layer's parameters, flat."""
    if isinstance(layer, _Stacked):
        return [torch.mv(p.flatten(1).t(), weights.to(p)) for p in layer.parameters]
    scaled = layer.coefficients * weights.view(-1, 1, 1)
    weight = torch.zeros_like(layer.linear.weight)
    for own, x in layer.pieces():
        products.accumulate(weight, scaled[own].flatten(0, 1), x.flatten(0, 1))
    return [weight.flatten()] + ([] if layer.linear.bias is None else [scaled.sum(dim=(0, 1))])


def _rows(layer: _Stacked | _Factored, chosen: Tensor) -> _Stacked | _Factored:
    if isinstance(layer, _Stacked):
        return _Stacked(layer.weight[chosen], None if layer.bias is None else layer.bias[chosen])
    own = layer.inputs[chosen], layer.coefficients[chosen]
    return replace(layer, inputs=own[0], coefficients=own[1], base=None, gram=None)


def _leading(layer: _Stacked | _Factored) -> Tensor:
    return layer.coefficients if isinstance(layer, _Factored) else layer.weight


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
