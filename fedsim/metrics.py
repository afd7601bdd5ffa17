"""Metrics as additive statistics.

A metric turns outputs and targets into a few sums that can be added over batches and over clients,
and a sum into its value. So a federated metric is the metric of all examples, not a mean of means,
and adding in another order cannot change what it counts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "METRICS",
    "Metric",
    "default",
    "evaluate",
    "larger_is_better",
    "value",
    "values",
]

_BINS = 4096  # of the AUC histogram; exact but for scores that share a bin


@dataclass(frozen=True, slots=True)
class Metric:
    """`statistics(output, target)` -> float64 sums [k]; `value(sums)` -> the metric."""

    statistics: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], float]
    kinds: tuple[str, ...]
    larger_is_better: bool


def evaluate(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str],
    batch_size: int,
) -> dict[str, Tensor]:
    """Return the statistics of a model on examples, by metric; `loss` is always among them."""
    module.eval()
    totals: dict[str, Tensor] = {}
    with torch.no_grad():
        # At least one batch, so that no examples give zero statistics of the right size.
        for start in range(0, max(len(y), 1), batch_size):
            target = y[start : start + batch_size]
            output = module(x[start : start + batch_size]) if len(target) else _nothing(module, x)
            batch = {"loss": _loss_statistics(loss, output, target)}
            batch |= {name: METRICS[name].statistics(output, target) for name in names}
            for name, sums in batch.items():
                totals[name] = totals[name] + sums if name in totals else sums
    return {name: sums.cpu() for name, sums in totals.items()}


def value(name: str, statistics: Tensor) -> float:
    """Return a metric's value from its statistics; NaN where there were no examples."""
    if name == "loss":
        return _ratio(statistics)
    return METRICS[name].value(statistics)


def values(statistics: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the values of several metrics."""
    return {name: value(name, sums) for name, sums in statistics.items()}


def larger_is_better(name: str) -> bool:
    """Say in which direction a metric improves; a loss improves downwards."""
    return name != "loss" and METRICS[name].larger_is_better


def default(kind: str, *, is_language: bool = False) -> tuple[str, ...]:
    """Return the usual metrics of a kind of data.

    >>> default("regression")
    ('rmse',)
    """
    if is_language:
        return ("accuracy", "perplexity")
    return {
        "classification": ("accuracy",),
        "binary": ("accuracy", "auc"),
        "regression": ("rmse",),
    }[kind]


def _nothing(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs for no examples: those of one blank example, cut to none."""
    blank = torch.zeros(1, *x.shape[1:], dtype=x.dtype, device=x.device)
    empty: Tensor = module(blank)[:0]
    return empty


def _loss_statistics(
    loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor
) -> Tensor:
    count = target.numel()
    total = float(loss(output, target).double()) * count if count else 0.0
    return torch.tensor([total, count], dtype=torch.float64)


def _ratio(sums: Tensor) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return predicted and true classes, flat; one output per example is a binary logit."""
    if output.shape[-1] == 1:
        return (output.flatten() > 0).long(), target.flatten().long()
    return output.argmax(dim=-1).flatten(), target.flatten()


def _accuracy(output: Tensor, target: Tensor) -> Tensor:
    predicted, true = _classes(output, target)
    return torch.tensor([int((predicted == true).sum()), true.numel()], dtype=torch.float64)


def _confusion(output: Tensor, target: Tensor) -> Tensor:
    """Per class: true positives, predicted, actual; flat [3 x classes]."""
    classes = max(output.shape[-1], 2)
    predicted, true = _classes(output, target)
    hits = torch.bincount(true[predicted == true], minlength=classes)
    counts = [hits, torch.bincount(predicted, minlength=classes), torch.bincount(true, minlength=classes)]
    return torch.cat(counts).double()


def _f1(sums: Tensor) -> float:
    """Binary: F1 of class 1. Else the mean over the classes that occur or are predicted (macro)."""
    hits, predicted, actual = sums.view(3, -1)
    seen = predicted + actual > 0
    if not bool(seen.any()):
        return math.nan
    scores = 2 * hits / (predicted + actual).clamp(min=1)
    return float(scores[1]) if len(scores) == 2 else float(scores[seen].mean())


def _score_histogram(output: Tensor, target: Tensor) -> Tensor:
    """Per class a histogram of its probability among its examples and among all others.

    Shape [classes x 2 x bins], flat; one class for binary data. Bins are even in probability.
    """
    if output.shape[-1] == 1:
        probabilities = torch.sigmoid(output.double())
        positive = target.reshape(-1, 1) == 1
    else:
        probabilities = output.double().softmax(dim=-1).flatten(0, -2)
        positive = torch.nn.functional.one_hot(target.flatten(), output.shape[-1]).bool()
    bins = (probabilities * _BINS).long().clamp(max=_BINS - 1)
    classes = probabilities.shape[-1]
    offsets = torch.arange(classes, device=output.device) * 2 * _BINS
    index = offsets + torch.where(positive, 0, _BINS) + bins
    return torch.bincount(index.flatten(), minlength=classes * 2 * _BINS).double()


def _auc(sums: Tensor) -> float:
    """Area under the ROC curve (Mann-Whitney: ties count half); one-vs-rest mean over classes."""
    areas = []
    for positive, negative in sums.view(-1, 2, _BINS):
        pairs = positive.sum() * negative.sum()
        if pairs > 0:
            below = negative.cumsum(0) - negative
            areas.append(float((positive * (below + negative / 2)).sum() / pairs))
    return math.fsum(areas) / len(areas) if areas else math.nan


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    error = (output.flatten().double() - target.double()) ** 2
    return torch.tensor([float(error.sum()), target.numel()], dtype=torch.float64)


def _absolute_error(output: Tensor, target: Tensor) -> Tensor:
    error = (output.flatten().double() - target.double()).abs()
    return torch.tensor([float(error.sum()), target.numel()], dtype=torch.float64)


def _log_likelihood(output: Tensor, target: Tensor) -> Tensor:
    logits = output.flatten(0, -2).double().log_softmax(dim=-1)
    total = -logits.gather(1, target.flatten()[:, None]).sum()
    return torch.tensor([float(total), target.numel()], dtype=torch.float64)


def _root(sums: Tensor) -> float:
    return math.sqrt(_ratio(sums))


def _perplexity(sums: Tensor) -> float:
    nats = _ratio(sums)
    return math.exp(nats) if nats < 700 else math.inf


METRICS = {
    "accuracy": Metric(_accuracy, _ratio, ("classification", "binary"), True),
    "auc": Metric(_score_histogram, _auc, ("classification", "binary"), True),
    "f1": Metric(_confusion, _f1, ("classification", "binary"), True),
    "rmse": Metric(_squared_error, _root, ("regression",), False),
    "mae": Metric(_absolute_error, _ratio, ("regression",), False),
    "perplexity": Metric(_log_likelihood, _perplexity, ("classification",), False),
}
