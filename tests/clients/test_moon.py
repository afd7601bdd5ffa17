"""MOON: its contrastive loss by hand, and which models have a representation."""

import math

import pytest
import torch
from torch import nn

from fedsim import data as datasets
from fedsim import losses, models, registry
from fedsim.clients.moon import Moon, contrast
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.errors import ConfigError
from fedsim.models import features, features_of, get_vector, named, no_features, set_vector
from fedsim.optimizers.gd import Gd

MU, TAU, LR = 0.7, 0.4, 0.3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))


def task_of(module, model):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator)
    y = torch.randint(2, (12,), generator=generator)
    set_vector(module, model)
    return Task(module, model, x, y, losses.LOSSES["cross_entropy"], Gd(lr=LR))


def by_hand(z, near, far):
    """-log(e^(sim(z, near) / tau) / (e^(sim(z, near) / tau) + e^(sim(z, far) / tau))), the mean."""

    def similarity(a, b):
        return (a @ b) / (a.norm() * b.norm())

    terms = []
    for row, close, away in zip(z, near, far, strict=True):
        up = torch.exp(similarity(row, close) / TAU)
        terms.append(-torch.log(up / (up + torch.exp(similarity(row, away) / TAU))))
    return torch.stack(terms).mean()


def test_the_contrastive_loss_is_the_papers():
    z, near, far = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    assert float(contrast(z, near, far, TAU)) == pytest.approx(float(by_hand(z, near, far)))
    assert float(contrast(z, z, z, TAU)) == pytest.approx(math.log(2))


def test_a_step_is_that_of_the_loss_plus_mu_times_the_contrastive_one():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    torch.manual_seed(3)
    model, before = get_vector(module), torch.randn(len(get_vector(module)))
    task = task_of(module, model)
    layers = named(module, before)
    far = torch.tanh(task.x @ layers["0.weight"].T + layers["0.bias"])
    near = torch.tanh(module[0](task.x)).detach()
    update, memo = Moon(mu=MU, temperature=TAU, steps=2, batch_size=0).train(
        task, {"model": before}, ClientContext(0, 2, 0)
    )
    set_vector(module, model)
    for _ in range(2):
        z = torch.tanh(module[0](task.x))
        loss = task.loss(module[2](z), task.y) + MU * by_hand(z, near, far)
        grads = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), grads, strict=True):
                parameter.sub_(LR * gradient)
    torch.testing.assert_close(update.vector, get_vector(module) - model, rtol=0, atol=1e-5)
    torch.testing.assert_close(memo["model"], get_vector(module), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "memo"), [(Moon(), {}), (Moon(mu=0.0), {"model": None})])
def test_without_a_model_before_or_a_weight_it_is_local_training(part, memo):
    module = network()
    model = get_vector(module)
    memo = {name: torch.randn(len(model)) for name in memo}
    plain, _ = LocalSgd().train(task_of(module, model), {}, ClientContext(0, 1, 0))
    update, _ = part.train(task_of(module, model), memo, ClientContext(0, 1, 0))
    assert torch.equal(update.vector, plain.vector)


def test_fixed_models_are_seen_without_dropout_and_the_module_is_left_as_it_was():
    module = network().train()
    x, other = torch.randn(6, 3), torch.randn(len(get_vector(module)))
    before = get_vector(module)
    seen = features_of(module, named(module, other), x)
    layers = named(module, other)
    torch.testing.assert_close(seen, torch.tanh(x @ layers["0.weight"].T + layers["0.bias"]))
    assert torch.equal(get_vector(module), before)
    assert module.training
    z, output = features(module.eval(), x)
    torch.testing.assert_close(output, module(x))
    torch.testing.assert_close(z, torch.tanh(module[0](x)))


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet", "lstm", "transformer", "linear"])
def test_models_of_ours_have_a_representation_but_a_linear_one(name):
    shape, vocabulary = ((7,), 11) if name in ("lstm", "transformer") else ((1, 16, 16), 0)
    meta = datasets.Meta("made", "classification", shape, 5, "", vocabulary)
    module = models.build(registry.load("models", name)(), meta, 0)
    x = torch.zeros((3, *shape), dtype=torch.int64 if vocabulary else torch.float32)
    if name == "linear":
        assert no_features(module)
    else:
        assert no_features(module) == ""
        assert features(module.eval(), x)[0].shape[0] == 3


def test_a_run_with_a_model_without_one_is_refused():
    import fedsim

    settings = ["local.name=moon", "model.name=linear", "engine.grid=inprocess"]
    with pytest.raises(ConfigError, match=r"model\.name.*Moon.*one layer"):
        fedsim.run("digits", settings)
