"""How a module's weights lie in memory."""

import torch
from torch import Tensor, nn

__all__ = ["arrange"]


def arrange(module: nn.Module, inputs: Tensor) -> None:
    """Store convolutions' weights channels last, where the module runs like that; for CPUs.

    What small networks spend on convolutions and pooling falls by 15 to 25 % (docs/performance.md).
    A module that views feature maps as rows (`x.view(len(x), -1)`) cannot be run so, and is left as
    it was: `inputs` are tried.
    """
    images = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    if not images:
        return
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        torch.autograd.grad(module(inputs).sum(), parameters, allow_unused=True)
    except RuntimeError:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
