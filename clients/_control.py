"""What local algorithms share that correct every gradient, by a vector or by a pull."""

import torch
from torch import Tensor, nn

from fedsim.core import Adjust, Optimizer
from fedsim.errors import ConfigError, Problem
from fedsim.models import named
from fedsim.training import trainable

__all__ = ["added", "must_descend", "of_parameters", "pulled"]


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


def pulled(
    gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor], strength: float
) -> list[Tensor]:
    """Return the gradients plus strength x (parameters - anchors), the pull of FedProx."""
    distances = torch._foreach_sub(parameters, anchors)
    return list(torch._foreach_add(gradients, distances, alpha=strength))


def must_descend(optimizer: Optimizer, accepted: str, *, may_dampen: bool = True) -> None:
    """Raise `ConfigError` for an optimizer whose steps are not gradients times its rate."""
    name = type(optimizer).__name__
    dampens = getattr(optimizer, "dampening", False) and not may_dampen
    if name not in ("Sgd", "Gd") or dampens:
        raise ConfigError([Problem("optimizer.name", name.lower(), accepted)])


def of_parameters(module: nn.Module, vector: Tensor) -> Tensor:
    """Return a flat vector with zeros where nothing is trained: frozen parameters and buffers."""
    trained = {id(parameter) for parameter in trainable(module)}
    known = dict(module.named_parameters())
    found = vector.clone()
    for name, part in named(module, found).items():
        if id(known.get(name)) not in trained:
            part.zero_()
    return found
