import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.models import get_vector, layout, named, set_vector


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def test_the_vector_is_parameters_then_floating_buffers_in_order_of_definition():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert layout(module) == [
        ("0.weight", (3, 2)),
        ("0.bias", (3,)),
        ("1.weight", (3,)),
        ("1.bias", (3,)),
        ("1.running_mean", (3,)),
        ("1.running_var", (3,)),
    ]
    parts = [module[0].weight, module[0].bias, module[1].weight, module[1].bias]
    expected = torch.cat([p.detach().flatten() for p in parts] + [torch.zeros(3), torch.ones(3)])
    assert torch.equal(get_vector(module), expected)


def test_setting_a_vector_leaves_integer_buffers_alone():
    module = nn.BatchNorm1d(2)
    module(torch.randn(4, 2))
    set_vector(module, torch.zeros(8))
    assert int(module.num_batches_tracked) == 1
    assert not get_vector(module).any()


def test_a_tied_parameter_counts_once():
    module = Tied()
    assert layout(module) == [("embed.weight", (5, 3))]
    set_vector(module, torch.arange(15.0))
    assert module.out.weight is module.embed.weight
    assert torch.equal(module.out.weight.flatten(), torch.arange(15.0))


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_set_then_get_is_the_identity(seed):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.BatchNorm2d(2))
    vector = torch.randn(get_vector(module).numel(), generator=torch.Generator().manual_seed(seed))
    set_vector(module, vector)
    assert torch.equal(get_vector(module), vector)


def test_a_vector_read_is_a_copy():
    module = nn.Linear(2, 1)
    vector = get_vector(module)
    before = vector.clone()
    with torch.no_grad():
        module.weight.add_(1)
    assert torch.equal(vector, before)


def test_half_precision_models_have_a_float32_vector_too():
    module = nn.Linear(2, 1).to(torch.bfloat16)
    assert get_vector(module).dtype == torch.float32
    set_vector(module, torch.tensor([1.0, 2.0, 3.0]))
    assert module.weight.dtype == torch.bfloat16
    assert get_vector(module).tolist() == [1.0, 2.0, 3.0]


def test_named_tensors_are_views_that_load_as_a_state_dict():
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    vector = torch.arange(float(get_vector(module).numel()))
    parts = named(module, vector)
    module.load_state_dict(parts)
    assert torch.equal(get_vector(module), vector)
    parts["0.bias"].zero_()
    assert vector[6:9].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_vector_of_another_length_is_refused(size):
    with pytest.raises(ValueError, match=r"for a model of 3 numbers"):
        set_vector(nn.Linear(2, 1), torch.zeros(size))
