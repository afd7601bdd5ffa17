"""Per-example clipping by Opacus: another way to the sums of `clipping.py`.

Yousefpour et al., "Opacus: User-friendly differential privacy library in PyTorch", 2021 (arXiv
2109.12298). `PrivacyEngine` attaches its hooks to the module as it is (`wrap_model=False`), so that
parameters keep their names. What Opacus computes is each example's clipped gradient and their sum.
Batches and noise are ours: Opacus's noise comes from torch's generator, which is not secret (its
`secure_mode` needs a library that torch 2 cannot load), and it takes no other. Each call is one of
Opacus's virtual steps, which add to the sum and release nothing.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.losses import Loss
from fedsim.privacy.clipping import Clipped, example_losses

__all__ = ["OpacusClipper", "attached"]


@dataclass(frozen=True, slots=True)
class OpacusClipper:
    """Clipped gradient sums, as `clipping.Clipper` has them; made by `attached`.

    `criterion`: of ghost clipping, whose loss does both backward passes; None forms gradients.
    """

    module: nn.Module
    each: Callable[[Tensor, Tensor], Tensor]
    hooks: Any
    optimizer: Any
    criterion: Any | None

    def __call__(self, x: Tensor, y: Tensor, clipping_norm: float) -> Clipped:
        """Return the clipped sums for inputs `x` [examples, ...] and targets `y`; none is fine."""
        parameters: Sequence[Any] = self.optimizer.params
        if not len(x):
            sums = [torch.zeros_like(p) for p in parameters]
            return Clipped(sums, x.new_zeros(0), x.new_zeros(0))
        self.optimizer.max_grad_norm = self.hooks.max_grad_norm = clipping_norm
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                each, norms = self._backward(x, y)
                self.optimizer.signal_skip_step()
                self.optimizer.step()
            sums = [p.summed_grad.detach() for p in parameters]
        finally:
            self._clear()
        good = norms.isfinite()
        if not bool(good.all()):  # Opacus's factor of such an example is NaN; ours is zero
            sums = self(x[good], y[good], clipping_norm).sums
        return Clipped(sums, norms, each)

    def _backward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses and the norms of the gradients, both [examples]."""
        output = self.module(x)
        if self.criterion is not None:
            loss = self.criterion(output, y)
            loss.backward()
            return loss.loss_per_sample.detach(), self.hooks.per_sample_gradient_norms.detach()
        each = self.each(output, y)
        torch.autograd.backward([each.sum()])
        squares = [g.reshape(len(x), -1).square().sum(dim=1) for g in self.optimizer.grad_samples]
        return each.detach(), torch.stack(squares).sum(dim=0).sqrt()

    def _clear(self) -> None:
        """Forget the batch, a failed one too."""
        self.optimizer._step_skip_queue.clear()
        self.optimizer._is_last_step_skipped = False
        self.optimizer.zero_grad(set_to_none=True)


@contextmanager
def attached(module: nn.Module, loss: Loss, *, is_ghost: bool) -> Iterator[OpacusClipper]:
    """Have Opacus clip a module's gradients, and leave the module as it was.

    `is_ghost`: by norms alone, in two backward passes, and no example's gradient formed in dense
    layers and embeddings (Li et al., ICLR 2022, arXiv 2110.05679). Raises what Opacus raises for a
    module that it does not take, or that is not in training.
    """

    def each(output: Tensor, target: Tensor) -> Tensor:
        return example_losses(loss, output, target)

    made = _made(module, each, "ghost" if is_ghost else "hooks")
    try:
        yield OpacusClipper(module, each, made[0], made[1], made[2] if is_ghost else None)
    finally:
        made[0].cleanup()
        for child in module.modules():
            for name in ("activations", "max_batch_len"):  # of a batch that failed half way
                child.__dict__.pop(name, None)
        for p in module.parameters():
            p.__dict__.pop("summed_grad", None)


def _made(module: nn.Module, each: Any, mode: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import PrivacyEngine
        from torch.utils.data import DataLoader, TensorDataset

        parameters = [p for p in module.parameters() if p.requires_grad]
        return PrivacyEngine().make_private(
            module=module,
            optimizer=torch.optim.SGD(parameters, lr=1.0),  # never steps
            criterion=each,
            data_loader=DataLoader(TensorDataset(torch.zeros(1, 1))),  # never read
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            poisson_sampling=False,
            loss_reduction="sum",
            grad_sample_mode=mode,
            wrap_model=False,
        )
