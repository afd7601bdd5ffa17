"""Adam (Kingma and Ba, ICLR 2015)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import OptimizerState
from fedsim.optimizers import _adaptive as adaptive

__all__ = ["Adam"]


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam with bias correction; its state lives one round unless `local.keep_optimizer`."""

    lr: Annotated[float, Gt(0)] = 0.001
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: Annotated[float, Gt(0)] = 1e-8

    full_batch: ClassVar = False
    is_linear: ClassVar = False

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        return adaptive.start(parameters, lead)

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        betas = self.beta1, self.beta2
        adaptive.step(parameters, gradients, state, self.lr * lr_factor, betas, self.eps)
