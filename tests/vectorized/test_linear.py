"""Dense layers with a weight for each client, against torch's own layer client by client."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedsim.vectorized.linear import StackedProducts, stacked_linear

CLIENTS = 3


def given(shape, has_bias):
    torch.manual_seed(0)
    tensors = [torch.randn(CLIENTS, *shape, 5), torch.randn(CLIENTS, 4, 5)]
    tensors += [torch.randn(CLIENTS, 4)] if has_bias else []
    return [tensor.double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("shape", [(2,), (2, 6), (1,)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_each_client_has_its_own_layer(shape, has_bias):
    x, weight, *bias = tensors = given(shape, has_bias)
    output = stacked_linear(x, weight, *bias)
    rows = [nn.functional.linear(*own) for own in zip(*tensors, strict=True)]
    torch.testing.assert_close(output, torch.stack(rows))
    target = torch.randn_like(output)
    found = torch.autograd.grad((output * target).sum(), tensors)
    expected = torch.autograd.grad((torch.stack(rows) * target).sum(), tensors)
    for own, right in zip(found, expected, strict=True):
        torch.testing.assert_close(own, right)
        assert own.stride() == right.contiguous().stride()


class Model(nn.Module):
    """Large enough a layer, one without a bias that gets what is nobody's own, one of torch's."""

    def __init__(self):
        super().__init__()
        self.wide, self.shared = nn.Linear(6, 8), nn.Linear(8, 8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("places", torch.linspace(0, 1, 4 * 8).view(4, 8))

    def forward(self, x):
        h = torch.tanh(self.wide(x)) + self.shared(self.places)
        return self.attention(h, h, h)[0]


@pytest.mark.parametrize("least", [0, 10**9])
def test_under_vmap_they_stand_in_the_place_of_torchs(least, monkeypatch):
    monkeypatch.setattr("fedsim.vectorized.linear._LARGE", least)
    torch.manual_seed(1)
    module = Model().double()
    names = [name for name, _ in module.named_parameters()]
    stacked = [
        torch.randn(CLIENTS, *p.shape).double().requires_grad_() for p in module.parameters()
    ]
    x = torch.randn(CLIENTS, 2, 4, 6).double()

    def one(parameters, own):
        with StackedProducts(CLIENTS):
            return functional_call(module, dict(zip(names, parameters, strict=True)), (own,))

    output = vmap(one)(stacked, x)
    found = torch.autograd.grad(output.square().sum(), stacked)
    for client in range(CLIENTS):
        alone = [p[client].detach().requires_grad_() for p in stacked]
        own = functional_call(module, dict(zip(names, alone, strict=True)), (x[client],))
        torch.testing.assert_close(output[client], own)
        for p, right in zip(found, torch.autograd.grad(own.square().sum(), alone), strict=True):
            torch.testing.assert_close(p[client], right)
    strides = dict(zip(names, (p.stride() for p in found), strict=True))
    assert strides["wide.weight"] == ((48, 6, 1) if least == 0 else (48, 1, 8))
