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
    """Take one step in place: by torch's kernel of one pass where all clients step alike."""
    means, squares = state["mean"], state["square"]
    torch._foreach_add_(state["step"], 1.0)
    if not parameters:
        return
    counts = state["step"][0]
    if counts.device.type == "cpu" and bool((counts == counts.flatten()[0]).all()):
        _fused(parameters, gradients, state, lr, betas, eps)
        return
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


def _fused(
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: OptimizerState,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Step with what `torch.optim.Adam(fused=True)` calls; element by element it is the same.

    It goes through memory, wherever in a tensor that is: all have to lie as the parameters do.
    """
    taken = state["step"][0].flatten()[0].float()
    torch._fused_adam_(
        parameters,
        [_laid_out_as(p, own) for p, own in zip(parameters, gradients, strict=True)],
        state["mean"],
        state["square"],
        [],
        [taken] * len(parameters),
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient that lies in memory as its parameter, which may be channels last."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
