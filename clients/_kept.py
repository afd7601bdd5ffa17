"""What local algorithms share that keep a part of the model on the client."""

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import layout, set_vector

__all__ = ["head_names", "head_places", "personal", "places_of", "steps_of", "train_shared"]

_OWN, _PLACES = "own", "places"


def places_of(module: nn.Module, names: Collection[str]) -> Tensor:
    """Return where the named tensors are in the model's flat vector: int64, sorted."""
    start, found = 0, [torch.arange(0)]
    for name, shape in layout(module):
        size = torch.Size(shape).numel()
        if name in names:
            found.append(torch.arange(start, start + size))
        start += size
    return torch.cat(found)


def head_names(module: nn.Module, layers: int) -> set[str]:
    """Return the names of the tensors of the last `layers` layers with parameters of their own."""
    own = [n for n, part in module.named_modules() if list(part.parameters(recurse=False))]
    last = set(own[-layers:])
    return {n for n, _ in layout(module) if n.rpartition(".")[0] in last}


def head_places(module: nn.Module, layers: int) -> Tensor:
    """Return where the last `layers` layers with parameters of their own are."""
    return places_of(module, head_names(module, layers))


def personal(memo: Memo, model: Tensor) -> Tensor:
    """Return the model with what the client keeps of it put in; as it is where it keeps nothing."""
    if _OWN not in memo:
        return model
    found = model.clone()
    found[memo[_PLACES].to(model.device)] = memo[_OWN].to(model.device)
    return found


def steps_of(recipe: Recipe) -> Callable[[Task, ClientContext], Update]:
    """Return local training by a recipe, for `train_shared`."""
    return lambda task, ctx: train_locally(task, {}, ctx, recipe)[0]


def train_shared(
    task: Task,
    memo: Memo,
    ctx: ClientContext,
    training: Callable[[Task, ClientContext], Update],
    places: Tensor,
) -> tuple[Update, Memo]:
    """Train from the model with the client's own part in it; send all but that part."""
    start = personal(memo, task.model)
    set_vector(task.module, start)
    update = training(replace(task, model=start), ctx)
    trained = start.cpu() + update.vector
    shared = update.vector.clone()
    shared[places] = 0.0
    return replace(update, vector=shared), {_OWN: trained[places], _PLACES: places}
