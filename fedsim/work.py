"""How much work local training is: floating-point operations of an example, and examples of it.

Counted, never timed: a virtual clock must show the same on every machine.
"""

import warnings
from typing import Any

import torch
from torch import nn

from fedsim.core import Recipe
from fedsim.training import step_count

__all__ = ["examples_computed", "flops_per_example"]


def flops_per_example(module: nn.Module, blank: torch.Tensor) -> float:
    """Return the operations of training on one example of two in `blank`, forward and backward.

    By torch's own counter, which counts products (a multiplication and an addition are two) in
    dense layers, convolutions, attention and recurrent cells, and nothing that works element by
    element. A model without any is taken to do six for each parameter, as a dense one does (Kaplan
    et al., 2020, section 2.1). The module is left as it was.
    """
    from torch.utils.flop_counter import FlopCounterMode

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    is_training = module.training
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of other vendors' processors
        # Recurrent cells are one opaque operation of MKL-DNN; without it, the products they are.
        with torch.backends.mkldnn.flags(enabled=False), counter:
            output = module.train()(blank)
            output.float().sum().backward()
    module.train(is_training)
    module.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
    counted = counter.get_total_flops() / len(blank)
    return counted or 6.0 * sum(p.numel() for p in module.parameters() if p.requires_grad)


def examples_computed(local: Any, size: int, *, full_batch: bool = False) -> float:
    """Return how many examples a client of `size` examples goes through, each time counted.

    A local algorithm that computes more than its steps say has `work(examples)`, which returns how
    many for so many.

    >>> from fedsim.clients.sgd import Sgd
    >>> examples_computed(Sgd(epochs=2), 70), examples_computed(Sgd(steps=3, batch_size=32), 70)
    (140.0, 70.0)
    """
    own = getattr(local, "inner", local)  # of one that is made private
    recipe = getattr(own, "recipe", None) or Recipe(
        getattr(own, "epochs", 1), getattr(own, "steps", None), getattr(own, "batch_size", 0)
    )
    width = size if full_batch else recipe.batch_size or size
    passes, rest = divmod(step_count(size, recipe, full_batch=full_batch), -(-size // width))
    examples = float(passes * size + min(rest * width, size))
    return float(own.work(examples)) if hasattr(own, "work") else examples
