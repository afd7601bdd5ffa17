"""Norms, bounds and weighted sums on the stack are those of the clients' vectors."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fedsim.core import Recipe
from fedsim.data import Meta
from fedsim.models.mlp import Mlp
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized.change import take_rows
from fedsim.vectorized.dense import fit_factored, fit_products, layers_of, pays_off, suits
from fedsim.vectorized.stacked import fit_stacked

META = Meta("made", "classification", (60,), 4, "", 0)
RECIPE = Recipe(epochs=2, batch_size=4)
FITS = [fit_stacked, fit_products, fit_factored]


def groups(clients, fit, **options):
    return clients(Mlp(hidden=(40, 30)), META, **options).groups(fit, RECIPE)


@pytest.mark.parametrize("fit", FITS)
def test_norms_and_bounds(fit, clients):
    for group in groups(clients, fit):
        vectors = group.change.vectors()
        norms = torch.linalg.vector_norm(vectors.double(), dim=1)
        torch.testing.assert_close(group.change.norms().double(), norms, rtol=1e-5, atol=0)
        largest = vectors.abs().amax(dim=1)
        assert (group.change.largest() >= largest * (1 - 1e-5)).all()
        assert (group.change.largest() <= norms.float() * (1 + 1e-5)).all()


@pytest.mark.parametrize("fit", FITS)
def test_weighted_sums(fit, clients):
    for group in groups(clients, fit):
        vectors = group.change.vectors().double()
        weights = torch.arange(len(group.members)).float() + 0.5
        expected = weights.double() @ vectors
        torch.testing.assert_close(
            group.change.weighted_sum(weights), expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("fit", FITS)
def test_of_weight_zero_not_even_nan_enters(fit, clients):
    made = clients(Mlp(hidden=(40, 30)), META, sizes=(4, 4, 4))
    made.task.x[:4] = float("nan")
    (group,) = made.groups(fit, RECIPE)
    assert group.change.largest()[0].isnan()
    assert not group.change.largest()[1:].isnan().any()
    total = group.change.weighted_sum(torch.tensor([0.0, 1.0, 2.0]))
    expected = torch.tensor([1.0, 2.0]).double() @ group.change.vectors()[1:].double()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Scaled:
    """A model with a parameter that is a single number."""

    def build(self, about):
        module = nn.Linear(60, 4)
        module.scale = nn.Parameter(torch.tensor(1.5))
        module.register_forward_hook(lambda layer, inputs, output: output * layer.scale)
        return module


def test_a_parameter_may_be_a_single_number(clients):
    for group in clients(Scaled(), META).groups(fit_stacked, RECIPE):
        vectors = group.change.vectors()
        weights = torch.ones(len(group.members))
        total = group.change.weighted_sum(weights)
        torch.testing.assert_close(total, vectors.double().sum(dim=0), rtol=1e-5, atol=1e-6)
        assert group.change.largest().shape == group.change.norms().shape == weights.shape


def test_low_rank_forms_no_weights_of_layers_larger_than_their_factors(clients):
    made = clients(Mlp(hidden=(40,)), META, optimizer=Sgd(lr=0.1, momentum=0.9))
    for group in made.groups(fit_factored, RECIPE):
        sizes = [layer.inputs.shape for layer in group.change.layers[:1]]
        assert sizes[0][1] <= 12  # examples of the largest client, not 40 x 60 weights


def test_what_is_a_chain_of_dense_layers():
    dense = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4)))
    assert [type(layer).__name__ for layer in layers_of(dense)] == ["Linear", "ReLU", "Linear"]
    assert layers_of(nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))) is None
    frozen = nn.Linear(6, 5)
    frozen.weight.requires_grad_(False)
    assert layers_of(frozen) is None
    assert suits(dense, (6,))
    assert not suits(dense, (3, 6))  # a vector per position: not one product per client
    assert suits(nn.Sequential(nn.Flatten(), dense), (2, 3))


def test_factors_pay_off_where_there_are_fewer_examples_than_inputs():
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, 5))
    assert pays_off(module, 30)
    assert not pays_off(module, 31)


def test_rows_are_not_copied_where_they_are_all_there_in_order():
    x = torch.arange(12.0).view(6, 2)
    whole = take_rows(x, torch.arange(6).view(2, 3))
    assert whole.data_ptr() == x.data_ptr()
    assert torch.equal(whole, x.view(2, 3, 2))
    places = torch.tensor([[0, 2], [5, 5]])
    assert torch.equal(take_rows(x, places), x[places])
