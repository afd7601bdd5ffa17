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

#: Of the AUC histogram: exact but for pairs of scores that share a bin. On 1,000 points within 1e-3
#: of the exact area even for logits in the hundreds (tests compare with scikit-learn).
_BINS = 2048


@dataclass(frozen=True, slots=True)
class Metric:
    """`statistics(output, target)` -> float64 sums [k]; `value(sums)` -> the metric.

    Sums of no examples are zeros and their value is NaN; NaN outputs never count as right.
    """

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
            output = output.unsqueeze(-1) if output.dim() == 1 else output
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
    """Return the outputs for no examples: those of one blank example, cut to none."""
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
    """Return predicted and true classes, flat; one output per example is a binary logit.

    NaN predicts a class of its own, beyond all others: a broken model is never right by chance.
    """
    if output.shape[-1] == 1:
        predicted, beyond = (output.flatten() > 0).long(), 2
    else:
        predicted, beyond = output.argmax(dim=-1).flatten(), output.shape[-1]
    is_broken = output.isnan().any(dim=-1).flatten()
    return predicted.masked_fill(is_broken, beyond), target.flatten().long()


def _accuracy(output: Tensor, target: Tensor) -> Tensor:
    predicted, true = _classes(output, target)
    return torch.tensor([int((predicted == true).sum()), true.numel()], dtype=torch.float64)


def _confusion(output: Tensor, target: Tensor) -> Tensor:
    """Count per class: true positives, predicted, actual; flat [3 x classes].

    Binary data have one class that counts, the positive one.
    """
    predicted, true = _classes(output, target)
    chosen = slice(1, 2) if output.shape[-1] == 1 else slice(output.shape[-1])
    counts = [
        torch.bincount(ids, minlength=output.shape[-1] + 2)[chosen]
        for ids in (true[predicted == true], predicted, true)
    ]
    return torch.cat(counts).double()


def _f1(sums: Tensor) -> float:
    """Return the mean F1 of the classes that occur or are predicted (macro); NaN without any."""
    hits, predicted, actual = sums.view(3, -1)
    seen = predicted + actual > 0
    return float((2 * hits / (predicted + actual))[seen].mean())


def _score_histogram(output: Tensor, target: Tensor) -> Tensor:
    """Count per class how its logit is spread among its examples and among all others.

    Shape [classes x 2 x bins], flat; one class for binary data. Bins are even in z / (1 + |z|) of
    the logit z: even in probability, they would lump the scores of a confident model together.
    """
    classes = output.shape[-1]
    scores = output.double().reshape(-1, classes)
    positive = target.reshape(-1, 1) == torch.arange(classes, device=output.device)
    if classes == 1:
        positive = target.reshape(-1, 1) == 1
    else:
        # log p / (1 - p); p = 1 to the last bit has the largest logit there is, not infinity
        log_p = scores.log_softmax(dim=-1).clamp(max=-1e-300)
        scores = log_p - (-torch.expm1(log_p)).log()
    if bool(scores.isnan().any()):  # stays NaN in every sum: no area without scores
        return torch.full(
            (classes * 2 * _BINS,), math.nan, dtype=torch.float64, device=output.device
        )
    scores = scores.clamp(-1e300, 1e300)
    bins = ((scores / (1 + scores.abs()) + 1) * (_BINS / 2)).long().clamp(max=_BINS - 1)
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
    error = (output.flatten().double() - target.flatten().double()) ** 2
    return torch.tensor([float(error.sum()), target.numel()], dtype=torch.float64)


def _absolute_error(output: Tensor, target: Tensor) -> Tensor:
    error = (output.flatten().double() - target.flatten().double()).abs()
    return torch.tensor([float(error.sum()), target.numel()], dtype=torch.float64)


def _log_likelihood(output: Tensor, target: Tensor) -> Tensor:
    logits = output.flatten(0, -2).double().log_softmax(dim=-1)
    total = -logits.gather(1, target.flatten()[:, None]).sum()
    return torch.tensor([float(total), target.numel()], dtype=torch.float64)


def _root(sums: Tensor) -> float:
    return math.sqrt(_ratio(sums))


def _perplexity(sums: Tensor) -> float:
    nats = _ratio(sums)
    return math.inf if nats >= 700 else math.exp(nats)  # NaN stays NaN


METRICS = {
    "accuracy": Metric(_accuracy, _ratio, ("classification", "binary"), True),
    "auc": Metric(_score_histogram, _auc, ("classification", "binary"), True),
    "f1": Metric(_confusion, _f1, ("classification", "binary"), True),
    "rmse": Metric(_squared_error, _root, ("regression",), False),
    "mae": Metric(_absolute_error, _ratio, ("regression",), False),
    "perplexity": Metric(_log_likelihood, _perplexity, ("classification",), False),
}
