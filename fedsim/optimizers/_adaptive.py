"""What Adam and AdamW share: moments, bias correction, the step (Kingma and Ba, Algorithm 1)."""

import torch
from torch import Tensor

from fedsim.core import OptimizerState, per_client

__all__ = ["start", "step"]


def start(parameters: list[Tensor], lead: int) -> OptimizerState:
    """Return zero moments, and how many steps each client has taken."""
    return {
        "mean": [torch.zeros_like(p) for p in parameters],
        "square": [torch.zeros_like(p) for p in parameters],
        "step": [per_client(p, lead) for p in parameters],
    }


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: OptimizerState,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Take one step in place."""
    means, squares = state["mean"], state["square"]
    torch._foreach_add_(state["step"], 1.0)
    torch._foreach_lerp_(means, gradients, 1 - betas[0])
    torch._foreach_mul_(squares, betas[1])
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - betas[1])
    scale = torch._foreach_sqrt(squares)
    # 1 - beta^t of a beta near 1 needs float64: the counters are.
    roots = [(1 - betas[1] ** t).sqrt().to(s) for t, s in zip(state["step"], scale, strict=True)]
    sizes = [(lr / (1 - betas[0] ** t)).to(s) for t, s in zip(state["step"], scale, strict=True)]
    torch._foreach_div_(scale, roots)
    torch._foreach_add_(scale, eps)
    moves = torch._foreach_div(means, scale)
    torch._foreach_mul_(moves, sizes)
    torch._foreach_sub_(parameters, moves)
