import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import nn

from fedsim import losses, metrics
from fedsim.metrics import METRICS, evaluate, value, values


def classification(n, classes, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    target = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), target] += 1
    return torch.from_numpy(logits * scale), torch.from_numpy(target)


def binary(n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < 0.3).astype(np.int64)
    scores = (rng.normal(size=n) + 1.5 * target - 1) * scale
    return torch.from_numpy(scores)[:, None], torch.from_numpy(target)


def regression(n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, 1))), torch.from_numpy(rng.normal(size=n))


EXAMPLES = {
    "classification": lambda n, seed: classification(n, 4, seed),
    "binary": binary,
    "regression": regression,
}


def measured(name, output, target):
    return METRICS[name].value(METRICS[name].statistics(output, target))


def test_classification_metrics_are_scikit_learns():
    output, target = classification(1000, 5)
    predicted, probability = output.argmax(1), output.softmax(1)
    assert measured("accuracy", output, target) == reference.accuracy_score(target, predicted)
    f1 = reference.f1_score(target, predicted, average="macro")
    assert measured("f1", output, target) == pytest.approx(f1, abs=1e-12)
    nats = reference.log_loss(target, probability)
    assert measured("perplexity", output, target) == pytest.approx(math.exp(nats), rel=1e-9)


def test_binary_metrics_are_scikit_learns():
    output, target = binary(1000)
    predicted = (output.flatten() > 0).long()
    assert measured("accuracy", output, target) == reference.accuracy_score(target, predicted)
    f1 = reference.f1_score(target, predicted)
    assert measured("f1", output, target) == pytest.approx(f1, abs=1e-12)


def test_two_classes_with_two_outputs_have_the_macro_f1():
    output, target = classification(200, 2)
    expected = reference.f1_score(target, output.argmax(1), average="macro")
    assert measured("f1", output, target) == pytest.approx(expected, abs=1e-12)


def test_regression_metrics_are_scikit_learns():
    output, target = regression(500)
    rmse = reference.root_mean_squared_error(target, output)
    assert measured("rmse", output, target) == pytest.approx(rmse, rel=1e-12)
    mae = reference.mean_absolute_error(target, output)
    assert measured("mae", output, target) == pytest.approx(mae, rel=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 20.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns_to_1e_3_on_1000_points_however_confident(scale, seed):
    output, target = binary(1000, seed, scale)
    expected = reference.roc_auc_score(target, output)
    assert measured("auc", output, target) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_auc_of_classes_is_scikit_learns_one_vs_rest_mean(scale):
    output, target = classification(1000, 5, scale=scale)
    probability = output.softmax(1)
    # Probabilities of 1 - 1e-20 and 1 - 1e-30 are one float: scikit-learn gets the same ranks of
    # log-odds, in which they differ.
    ranks = torch.stack(
        [output[:, c] - output[:, [d for d in range(5) if d != c]].logsumexp(1) for c in range(5)],
        dim=1,
    )
    each = [reference.roc_auc_score(target == c, ranks[:, c]) for c in range(5)]
    assert measured("auc", output, target) == pytest.approx(np.mean(each), abs=1e-3)
    if scale <= 1:
        expected = reference.roc_auc_score(target, probability, multi_class="ovr")
        assert measured("auc", output, target) == pytest.approx(expected, abs=1e-3)


def test_auc_counts_ties_half_and_extremes_as_what_they_are():
    zeros, target = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    assert measured("auc", zeros, target) == 0.5
    perfect = torch.tensor([[-1e30], [1e30], [-1e30], [1e30]])
    assert measured("auc", perfect, target) == 1.0
    assert measured("auc", -perfect, target) == 0.0
    certain = torch.tensor([[1e30, -1e30], [-1e30, 1e30], [1e30, -1e30], [-1e30, 1e30]])
    assert measured("auc", certain, target) == 1.0


def test_metrics_of_sequences_count_every_position():
    output, target = classification(60, 4)
    for name in ("accuracy", "f1", "auc", "perplexity"):
        flat = measured(name, output, target)
        assert measured(name, output.view(10, 6, 4), target.view(10, 6)) == pytest.approx(flat)


@settings(deadline=None)
@given(
    st.sampled_from([(n, kind) for n, m in METRICS.items() for kind in m.kinds]),
    st.integers(0, 2**31),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_statistics_of_parts_add_up_to_the_whole(case, seed, cuts):
    name, kind = case
    output, target = EXAMPLES[kind](40, seed)
    metric = METRICS[name]
    edges = [0, *sorted(cuts), 40]
    parts = [metric.statistics(output[a:b], target[a:b]) for a, b in pairwise(edges)]
    whole = metric.statistics(output, target)
    total = torch.stack(parts).sum(dim=0)
    assert all(part.dtype == torch.float64 and part.shape == whole.shape for part in parts)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-9)
    assert metric.value(total) == pytest.approx(metric.value(whole), rel=1e-9, nan_ok=True)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**31))
def test_evaluating_in_batches_is_evaluating_at_once(batch_size, seed):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(seed))
    y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(seed))
    module = nn.Linear(6, 3)
    names, loss = ("accuracy", "f1", "auc", "perplexity"), losses.LOSSES["cross_entropy"]
    small = values(evaluate(module, x, y, loss, names, batch_size))
    whole = values(evaluate(module, x, y, loss, names, 60))
    assert set(small) == {"loss", *names}
    for name in small:
        assert small[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_no_examples_give_zeros_of_the_right_size_and_no_value(name):
    kind = METRICS[name].kinds[0]
    output, target = EXAMPLES[kind](5, 0)
    module = nn.Linear(2, output.shape[1])
    loss = losses.LOSSES[losses.default(kind)]
    some = evaluate(module, torch.zeros(5, 2), target.float() if kind == "regression" else target,
                    loss, (name,), 2)  # fmt: skip
    none = evaluate(module, torch.zeros(0, 2), target[:0], loss, (name,), 2)
    assert none[name].shape == some[name].shape
    assert not none[name].any()
    assert math.isnan(value(name, none[name]))
    assert math.isnan(value("loss", none["loss"]))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, m in METRICS.items() for k in m.kinds])
def test_a_model_that_says_nan_is_never_right(name, kind):
    output, target = EXAMPLES[kind](20, 0)
    result = measured(name, torch.full_like(output, math.nan), target)
    if name in ("accuracy", "f1"):
        assert result == 0
    else:
        assert math.isnan(result)


def test_the_loss_is_the_mean_over_examples_whatever_the_batches():
    x, y = torch.arange(5.0)[:, None], torch.zeros(5)
    module = nn.Identity()
    statistics = evaluate(module, x, y, losses.LOSSES["mse"], ("mae",), 2)
    assert values(statistics) == {"loss": 6.0, "mae": 2.0}
    assert statistics["loss"].tolist() == [30.0, 5.0]


def test_a_model_that_gives_a_flat_output_is_understood():
    x, y = torch.tensor([-1.0, 2.0, 3.0]), torch.tensor([0, 1, 0])
    statistics = evaluate(nn.Identity(), x, y, losses.LOSSES["binary"], ("accuracy", "auc"), 3)
    assert values(statistics)["accuracy"] == pytest.approx(2 / 3)
    assert values(statistics)["auc"] == 0.5


def test_evaluation_switches_dropout_off_and_records_no_gradient():
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)).train()
    x, y = torch.ones(8, 2), torch.zeros(8)
    first, again = (evaluate(module, x, y, losses.LOSSES["mse"], (), 8) for _ in range(2))
    assert torch.equal(first["loss"], again["loss"])
    assert module[1].weight.grad is None


def test_f1_is_undefined_where_no_positive_occurs_or_is_predicted():
    assert math.isnan(measured("f1", -torch.ones(3, 1), torch.zeros(3)))
    assert measured("f1", -torch.ones(3, 1), torch.ones(3)) == 0


def test_directions_and_defaults():
    assert metrics.larger_is_better("accuracy")
    assert not metrics.larger_is_better("rmse")
    assert not metrics.larger_is_better("loss")
    for kind in ("classification", "binary", "regression"):
        assert all(kind in METRICS[name].kinds for name in metrics.default(kind))
    assert metrics.default("classification", is_language=True) == ("accuracy", "perplexity")
