"""Per-example clipping with one forward and one backward pass.

The gradient of an example in a dense layer or a convolution is a sum over positions of (output
gradient) x (input). So its norm follows from what the layer took in and from the gradients of what
it put out, and the clipped sum over a batch is one product of the two, with no example's gradient
formed where that is cheaper: Bu et al., "Differentially private optimization on large model at
small cost", ICML 2023 (arXiv 2210.00038), "book-keeping" with the mixed choice of section 4. Where
a module has parameters in other layers, all its examples' gradients are formed, by `vmap` or, where
torch cannot do that, one after another.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from fedsim import dropout, losses
from fedsim.losses import Loss

__all__ = [
    "Clipped",
    "Clipper",
    "Part",
    "Product",
    "example_losses",
    "factors",
    "has_rule",
    "layers_with_rules",
    "mixes_examples",
    "one_example",
    "part_of",
]

_DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KERNELS: dict[type, Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_weight,
    nn.Conv2d: conv2d_weight,
    nn.Conv3d: conv3d_weight,
}
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class Clipped:
    """Of a batch: `sums`, one per parameter that is not frozen, of min(1, C / norm) x gradient.

    `norms` [examples] are those of the whole gradients before clipping; `losses` [examples]. An
    example whose gradient is not finite counts as zero in the sums; its norm says so. `products`
    stand for the sums of the weights of layers that were asked for so: these are not in `sums`.
    """

    sums: list[Tensor]
    norms: Tensor
    losses: Tensor
    products: Sequence["Product"] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """A sum of gradients of a dense layer's weights: of products over examples and positions.

    `gradient` [examples, ..., outputs], clipped, and `x` [examples, ..., inputs].
    """

    layer: nn.Linear
    gradient: Tensor
    x: Tensor


@dataclass(slots=True)
class _Calls:
    """What a layer took in and put out, call by call, in one forward pass."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """One layer's share: squared norms [examples], and what makes each parameter's sum.

    Factors [examples] give one sum of each parameter's gradients, factors [clients, width], where
    the examples are `width` of each client, one sum per client on a leading axis.
    """

    squares: Tensor
    makes: Mapping[nn.Parameter, Callable[[Tensor], Tensor]]

    def sums(self, weights: Tensor, without: Collection[Tensor] = ()) -> dict[nn.Parameter, Tensor]:
        """Return the sums by parameter for given factors."""
        return {p: make(weights) for p, make in self.makes.items() if p not in without}


def mixes_examples(module: nn.Module) -> str:
    """Say why a module has no gradient per example, "" where it has."""
    if any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules()):
        return "batch norm mixes the examples of a batch; group norm does not"
    return ""


def factors(norms: Tensor, clipping_norm: float) -> Tensor:
    """Return min(1, C / norm); 0 for a norm that is not finite, 1 for a norm of zero."""
    return torch.where(norms.isfinite(), (clipping_norm / norms).clamp(max=1.0), 0.0)


class Clipper:
    """Clipped gradient sums of a module's parameters; keep one for as long as the module lives."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        """Raise `ValueError` for a module whose examples have no gradients of their own."""
        if reason := mixes_examples(module):
            raise ValueError(reason)
        self._module, self._loss = module, loss
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._layers = layers_with_rules(module)
        self._can_vmap, self._copies = True, False

    @property
    def forms_gradients(self) -> bool:
        """Whether every example's whole gradient is formed, for want of a rule for some layer."""
        return self._layers is None

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        clipping_norm: float,
        factored: Collection[nn.Linear] = (),
    ) -> Clipped:
        """Return the clipped sums for inputs `x` [examples, ...] and targets `y`; none is fine.

        `factored`: layers whose weights' sums are to be left as products; none where
        `forms_gradients`.
        """
        if not len(x):
            weights = {layer.weight for layer in factored}
            sums = [torch.zeros_like(p) for p in self._parameters if p not in weights]
            return Clipped(sums, x.new_zeros(0), x.new_zeros(0))
        if self._layers is None:
            return self._by_example(x, y, clipping_norm)
        return self._by_layer(self._layers, x, y, clipping_norm, factored)

    def _by_layer(
        self,
        layers: Sequence[nn.Module],
        x: Tensor,
        y: Tensor,
        clipping_norm: float,
        factored: Collection[nn.Linear],
    ) -> Clipped:
        """One pass forward and one back."""
        calls: dict[nn.Module, _Calls] = {}
        record = _recorder(calls, copies=self._copies)
        handles = [layer.register_forward_hook(record) for layer in layers]
        try:
            each = example_losses(self._loss, self._module(x), y)
        finally:
            for handle in handles:
                handle.remove()
        outputs = [output for call in calls.values() for output in call.outputs]
        versions = [version for call in calls.values() for version in call.versions]
        if [output._version for output in outputs] != versions:
            self._copies = True  # the module works in place: it gets copies from now on
            return self._by_layer(layers, x, y, clipping_norm, factored)
        gradients = iter(torch.autograd.grad(each.sum(), outputs, materialize_grads=True))
        with torch.no_grad():
            pairs = {
                layer: [(a, next(gradients)) for a in call.inputs] for layer, call in calls.items()
            }
            parts = [part_of(layer, own) for layer, own in pairs.items()]
            norms = torch.stack([part.squares for part in parts]).sum(dim=0).sqrt()
        good = norms.isfinite()
        if not good.all():  # zero times NaN is NaN: such examples are left out
            rest = self(x[good], y[good], clipping_norm, factored)
            return replace(rest, norms=norms, losses=each.detach())
        with torch.no_grad():
            weights = factors(norms, clipping_norm)
            left_out: set[Tensor] = {layer.weight for layer in factored}
            sums: dict[nn.Parameter, Tensor] = {}
            for part in parts:
                sums |= part.sums(weights, left_out)
            products = [
                Product(layer, g * weights.view(-1, *[1] * (g.dim() - 1)), a)
                for layer in factored
                for a, g in pairs.get(layer, ())
            ]
        wanted = [p for p in self._parameters if p not in left_out]
        ordered = [sums[p] if p in sums else torch.zeros_like(p) for p in wanted]
        return Clipped(ordered, norms, each.detach(), products)

    def _by_example(self, x: Tensor, y: Tensor, clipping_norm: float) -> Clipped:
        gradients, each = self._formed(x, y)
        squares = [g.reshape(len(x), -1).square().sum(dim=1) for g in gradients]
        norms = torch.stack(squares).sum(dim=0).sqrt()
        weights = factors(norms, clipping_norm)
        sums = []
        for g in gradients:
            flat = torch.where(norms.isfinite().unsqueeze(1), g.reshape(len(x), -1), 0.0)
            sums.append((weights.to(flat) @ flat).view(g.shape[1:]))
        return Clipped(sums, norms, each)

    def _formed(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return every example's gradient [examples, ...] by parameter, and the losses."""
        named = {n: p.detach() for n, p in self._module.named_parameters() if p.requires_grad}
        keys, step = dropout.example_keys(len(x))
        one = one_example(self._module, self._loss, step)
        if self._can_vmap:
            try:
                each_one = grad(one, has_aux=True)
                over = vmap(each_one, in_dims=(None, 0, 0, 0), randomness="different")
                with warnings.catch_warnings():  # it works, one example at a time inside torch
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    found, each = over(named, x, y, keys)
                return list(found.values()), each.detach()
            except RuntimeError:
                self._can_vmap = False
        rows, seen = [], []
        for i in range(len(x)):
            own = {name: p.requires_grad_() for name, p in named.items()}
            loss, _ = one(own, x[i], y[i], keys[i])
            rows.append(torch.autograd.grad(loss, list(own.values()), materialize_grads=True))
            seen.append(loss.detach())
        return [torch.stack(column) for column in zip(*rows, strict=True)], torch.stack(seen)


def one_example(
    module: nn.Module, loss: Loss, step: int
) -> Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (parameters, x, y, key) -> (loss, loss) of one example, to be given to `grad`."""

    def one(own: dict[str, Tensor], x: Tensor, y: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        with dropout.keyed(key, step):
            output = functional_call(module, own, (x.unsqueeze(0),))
        found = example_losses(loss, output, y.unsqueeze(0)).sum()
        return found, found

    return one


def example_losses(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Return every example's loss, the mean over its positions: [examples]."""
    each = losses.each(loss, output, target)
    return each.flatten(1).mean(dim=1) if each.dim() > 1 else each


def layers_with_rules(module: nn.Module) -> list[nn.Module] | None:
    """List the layers that have parameters to train; None where one of them has no rule."""
    found: list[nn.Module] = []
    seen: set[nn.Parameter] = set()
    for child in module.modules():
        below = {p for inner in child.children() for p in inner.parameters()}
        own = [p for p in child.parameters(recurse=False) if p.requires_grad and p not in below]
        if not own:  # none, or other names for those of a child, as in Opacus's LSTM
            continue
        if not has_rule(child) or seen & set(own):  # tied weights: their norm is of the sum
            return None
        seen |= set(own)
        found.append(child)
    return found or None


def has_rule(layer: nn.Module) -> bool:
    """Say whether the gradients of a layer's own parameters follow from what it takes and gives."""
    names = {name for name, _ in layer.named_parameters(recurse=False)}
    if not names <= {"weight", "bias"} or layer._forward_hooks or layer._forward_pre_hooks:
        return False  # an old weight norm, a layer of somebody's own: more than the rule knows
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return True
    return type(layer) in _DENSE or type(layer) in _NORMS


def _recorder(calls: dict[nn.Module, _Calls], *, copies: bool) -> Callable[..., Tensor | None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        own = calls.setdefault(layer, _Calls())
        own.inputs.append(inputs[0].detach())
        own.outputs.append(output)
        own.versions.append(output._version)
        return output.clone() if copies else None

    return record


def part_of(layer: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> Part:
    """Return a layer's part from what it took in, call by call, and its outputs' gradients."""
    if isinstance(layer, nn.Embedding):
        return _embedding(layer, pairs)
    return _norm(layer, pairs) if isinstance(layer, _NORMS) else _dense(layer, pairs)


def _dense(layer: Any, pairs: Sequence[tuple[Tensor, Tensor]]) -> Part:
    """Linear layers and convolutions: gradients are sums over positions of g x a."""
    weight, bias = layer.weight, layer.bias
    squares = pairs[0][0].new_zeros(len(pairs[0][0]))
    makes: dict[nn.Parameter, Callable[[Tensor], Tensor]] = {}
    if weight.requires_grad:
        squares, makes[weight] = _weight(layer, pairs)
    if bias is not None and bias.requires_grad:
        own = _added([_to_outputs(layer, g) for _, g in pairs])
        squares = squares + own.square().sum(dim=1)
        makes[bias] = lambda weights: _weighted(weights, own, bias)
    return Part(squares, makes)


def _weight(
    layer: Any, pairs: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return squared norms [examples] of a weight's gradients, and what sums them up weighted.

    Through inner products of positions where those are few, else each gradient is formed.
    """
    weight = layer.weight
    is_linear = isinstance(layer, nn.Linear)
    positions = sum(g[0].numel() // weight.shape[0] for _, g in pairs)
    can_compare = is_linear or (layer.groups == 1 and not isinstance(layer, nn.Conv3d))
    if can_compare and (positions == 1 or 2 * positions**2 < weight.numel()):
        shaped = [_positions(layer, a, g) for a, g in pairs]
        # Calls of the same layer are more positions of it.
        a, g = (_joined([pair[side] for pair in shaped]) for side in (0, 1))

        def through_positions(weights: Tensor) -> Tensor:
            lead = weights.shape[:-1]
            scaled = (g * weights.view(-1, 1, 1)).reshape(*lead, -1, g.shape[2])
            product = scaled.transpose(-1, -2) @ a.reshape(*lead, -1, a.shape[2])
            return product.view(*lead, *weight.shape)

        return _products(a, g), through_positions
    formed = _added([_formed(layer, a, g) for a, g in pairs])
    return formed.square().sum(dim=1), lambda weights: _weighted(weights, formed, weight)


def _weighted(weights: Tensor, own: Tensor, parameter: Tensor) -> Tensor:
    """Sum gradients [examples, numbers] up, over all examples or over those of each client."""
    if weights.dim() == 1:
        return (weights @ own).view(parameter.shape)
    product = torch.bmm(weights.unsqueeze(1), own.reshape(*weights.shape, -1))
    return product.view(len(weights), *parameter.shape)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _added(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(dim=0)


def _products(a: Tensor, g: Tensor) -> Tensor:
    """Return |sum over positions of g x a|^2 for each example, from inner products."""
    if a.shape[1] == 1:
        return a.square().sum(dim=(1, 2)) * g.square().sum(dim=(1, 2))
    similar = torch.bmm(a, a.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))
    return similar.sum(dim=(1, 2)).clamp(min=0)


def _positions(layer: Any, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return (inputs [examples, positions, inputs], gradients [examples, positions, outputs])."""
    if isinstance(layer, nn.Linear):
        return a.reshape(len(a), -1, a.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
    a, _ = _padded(layer, a)
    sizes: list[Any] = [layer.kernel_size, layer.dilation, layer.stride]
    if isinstance(layer, nn.Conv1d):
        a, sizes = a.unsqueeze(2), [(1, *size) for size in sizes]
    columns = functional.unfold(a, sizes[0], dilation=sizes[1], stride=sizes[2])
    return columns.transpose(1, 2), g.flatten(2).transpose(1, 2)


def _formed(layer: Any, a: Tensor, g: Tensor) -> Tensor:
    """Return every example's gradient of the weight: [examples, weight].

    Of a convolution it is that of one with a group per example: torch computes all at once.
    """
    if isinstance(layer, nn.Linear):
        wide = _positions(layer, a, g)
        return torch.bmm(wide[1].transpose(1, 2), wide[0]).flatten(1)
    a, padding = _padded(layer, a)
    found = _KERNELS[type(layer)](
        a.reshape(1, -1, *a.shape[2:]),
        (len(a) * layer.out_channels, *layer.weight.shape[1:]),
        g.reshape(1, -1, *g.shape[2:]),
        layer.stride,
        padding,
        layer.dilation,
        len(a) * layer.groups,
    )
    return found.view(len(a), -1)


def _padded(layer: Any, a: Tensor) -> tuple[Tensor, Any]:
    """Return (inputs, padding left to do) of a convolution."""
    if (
        layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not any(layer.padding)
    ):
        return a, layer.padding
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(a, layer._reversed_padding_repeated_twice, mode=mode)
    return padded, (0,) * len(layer.kernel_size)


def _to_outputs(layer: Any, g: Tensor) -> Tensor:
    """Sum over an example's positions: [examples, outputs]."""
    if isinstance(layer, nn.Linear):
        return g.reshape(len(g), -1, g.shape[-1]).sum(dim=1)
    return g.flatten(2).sum(dim=2)


def _embedding(layer: nn.Embedding, pairs: Sequence[tuple[Tensor, Tensor]]) -> Part:
    """Embeddings: positions of the same token add up."""
    tokens = torch.cat([a.reshape(len(a), -1) for a, _ in pairs], dim=1)
    g = torch.cat([g.reshape(len(g), -1, g.shape[-1]) for _, g in pairs], dim=1)
    if layer.padding_idx is not None:
        g = torch.where((tokens == layer.padding_idx).unsqueeze(2), 0.0, g)
    same = tokens.unsqueeze(1) == tokens.unsqueeze(2)
    squares = (torch.bmm(g, g.transpose(1, 2)) * same).sum(dim=(1, 2)).clamp(min=0)

    def make(weights: Tensor) -> Tensor:
        scaled, lead = (g * weights.view(-1, 1, 1)).flatten(0, 1), weights.shape[:-1]
        client = torch.arange(lead.numel(), device=g.device).repeat_interleave(weights.shape[-1])
        rows = (tokens + client.unsqueeze(1) * layer.num_embeddings).flatten()
        total = g.new_zeros(lead.numel() * layer.num_embeddings, g.shape[2])
        return total.index_add_(0, rows, scaled).view(*lead, *layer.weight.shape)

    return Part(squares, {cast(nn.Parameter, layer.weight): make})


def _norm(layer: Any, pairs: Sequence[tuple[Tensor, Tensor]]) -> Part:
    """Norm layers: a scale and a shift for each channel or feature; their gradients are small."""
    gradients: dict[nn.Parameter, Tensor] = {}
    shift = getattr(layer, "bias", None)  # an RMSNorm has none
    for a, g in pairs:
        for parameter, own in ((layer.weight, g * _normalized(layer, a)), (shift, g)):
            if parameter is not None and parameter.requires_grad:
                part = _to_shape(own, parameter, layer)
                before = gradients.get(parameter)
                gradients[parameter] = part if before is None else before + part
    squares = torch.stack([o.flatten(1).square().sum(dim=1) for o in gradients.values()]).sum(dim=0)

    def maker(p: nn.Parameter, own: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda weights: _weighted(weights, own.flatten(1), p)

    return Part(squares, {p: maker(p, own) for p, own in gradients.items()})


def _normalized(layer: Any, a: Tensor) -> Tensor:
    """Return a norm layer's output before its scale and shift."""
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(a, layer.num_groups, eps=layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    return functional.rms_norm(a, layer.normalized_shape, eps=layer.eps)


def _to_shape(own: Tensor, parameter: nn.Parameter, layer: Any) -> Tensor:
    """Sum over an example's positions: [examples, *parameter.shape]."""
    if isinstance(layer, nn.GroupNorm):  # channels come first
        return own.flatten(2).sum(dim=2) if own.dim() > 2 else own
    whole = own.reshape(len(own), -1, *parameter.shape)
    return whole.sum(dim=1)
