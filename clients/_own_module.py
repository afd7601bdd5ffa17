"""What local algorithms share whose clients have a model of another kind than the federation's."""

import copy
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from fedsim import models, registry
from fedsim.core import ClientContext, Task
from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table
from fedsim.models import get_vector, set_vector

__all__ = ["check_models", "own_module"]

_KEPT = 16  # modules that a process holds on to; their numbers are set anew for each client


def check_models(names: Sequence[str], args: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for models that there are not, or settings that they do not have."""
    problems: list[Problem] = []
    for name in names:
        try:
            kind = registry.load("models", name)
        except ConfigError as error:
            accepted = error.problems[0].accepted
            problems.append(Problem("local.models", name, accepted, error.problems[0].hint))
        else:
            read_table(f"local.args.{name}", kind, args.get(name, {}), problems, name=name)
    if strange := sorted(args.keys() - set(names)):
        accepted = f"settings of local.models: {', '.join(names) or 'there are none'}"
        problems.append(Problem("local.args", strange, accepted))
    if problems:
        raise ConfigError(problems)


def own_module(
    task: Task,
    own: Tensor | None,
    names: Sequence[str],
    args: Mapping[str, Any],
    ctx: ClientContext,
) -> nn.Module:
    """Return this client's module with the numbers `own`; None: with those it begins with.

    Client i has the model `names[i % len(names)]`, built as the federation's is; where there are no
    names, one of the federation's kind that begins as it was sent.
    """
    if not names:
        module = _copy_of(task.module)
        set_vector(module, task.model if own is None else own)
        return module
    name = names[ctx.client % len(names)]
    text = json.dumps(args.get(name, {}), sort_keys=True)
    module, initial = _built(name, text, task.meta, ctx.seed, str(task.model.device))
    set_vector(module, initial if own is None else own)
    return module


@lru_cache(maxsize=_KEPT)
def _built(name: str, text: str, meta: Any, seed: int, device: str) -> tuple[nn.Module, Tensor]:
    """Build a model; return it with the numbers that it begins with."""
    problems: list[Problem] = []
    kind = registry.load("models", name)
    part = read_table(f"local.args.{name}", kind, json.loads(text), problems, name=name)
    if problems:
        raise ConfigError(problems)
    module = models.build(part, meta, seed).to(device)
    return module, get_vector(module)


@lru_cache(maxsize=_KEPT)
def _copy_of(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)
