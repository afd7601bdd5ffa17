"""What local algorithms share that add a vector of the model's size to every gradient."""

from torch import Tensor, nn

from fedsim.core import Adjust
from fedsim.models import named
from fedsim.training import trainable

__all__ = ["added", "of_parameters"]


def added(module: nn.Module, vector: Tensor) -> Adjust:
    """Return what adds, to each parameter's gradient, its part of a flat vector.

    Parameters are told by identity: those without a gradient have no part in a step.
    """
    parts = named(module, vector)
    own = {id(parameter): parts[name] for name, parameter in module.named_parameters()}

    def adjust(
        gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor]
    ) -> list[Tensor]:
        return [g + own[id(p)] for g, p in zip(gradients, parameters, strict=True)]

    return adjust


def of_parameters(module: nn.Module, vector: Tensor) -> Tensor:
    """Return a flat vector with zeros where nothing is trained: frozen parameters and buffers."""
    trained = {id(parameter) for parameter in trainable(module)}
    known = dict(module.named_parameters())
    found = vector.clone()
    for name, part in named(module, found).items():
        if id(known.get(name)) not in trained:
            part.zero_()
    return found
