import pytest
import torch
from torch.nn import functional

from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.models import layout
from fedsim.models.linear import Linear

FEATURES = Meta("made", "classification", (81, 7, 7), 10, "")


def test_norm_groups_are_group_norm_without_parameters():
    torch.manual_seed(0)
    module = Linear(norm_groups=27).build(FEATURES)
    assert [shape for _, shape in layout(module)] == [(10, 3969), (10,)]
    x = 3 + torch.randn(5, 81, 7, 7)
    groups = x.reshape(5, 27, 3 * 49)
    centred = groups - groups.mean(dim=2, keepdim=True)
    normal = centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    weight, bias = module.parameters()
    expected = functional.linear(normal.reshape(5, -1), weight, bias)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)


def test_norm_groups_divide_the_channels():
    with pytest.raises(ConfigError, match="divides the 81 input channels"):
        Linear(norm_groups=10).build(FEATURES)
    assert len(list(Linear(norm_groups=0).build(FEATURES))) == 2
