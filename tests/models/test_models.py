import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fedsim import losses, models, registry
from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.models.cnn import Cnn
from fedsim.models.lenet import Lenet
from fedsim.models.linear import Linear
from fedsim.models.lstm import Lstm
from fedsim.models.mlp import Mlp
from fedsim.models.transformer import Transformer


def meta(kind="classification", shape=(8, 8), outputs=10, vocabulary=0):
    return Meta("made", kind, shape, outputs, "", vocabulary)


META = {
    "digits": meta(),
    "flat square": meta(shape=(64,)),
    "mnist": meta(shape=(28, 28)),
    "colour": meta(shape=(3, 32, 32)),
    "table": meta("binary", (13,), 1),
    "regression": meta("regression", (10,), 1),
    "next token": meta(shape=(12,), outputs=20, vocabulary=20),
    "text class": meta(shape=(12,), outputs=3, vocabulary=20),
    "series": meta(shape=(12, 4), outputs=3),
    "one channel": meta("regression", (12,), 1),
}
SEQUENCES = ("next token", "text class", "series", "one channel")
FITS = {
    "linear": ("digits", "colour", "table", "regression"),
    "mlp": ("digits", "mnist", "table", "regression"),
    "cnn": ("digits", "flat square", "mnist", "colour"),
    "lenet": ("mnist", "colour"),
    "lstm": SEQUENCES,
    "transformer": SEQUENCES,
}
PAIRS = [(name, data) for name, fitting in FITS.items() for data in fitting]


def examples(data, n=4):
    about, generator = META[data], torch.Generator().manual_seed(0)
    if about.vocabulary:
        x = torch.randint(about.vocabulary, (n, *about.input_shape), generator=generator)
    else:
        x = torch.randn(n, *about.input_shape, generator=generator)
    if about.kind != "classification":
        return x, (torch.arange(n) % 2).float()
    per_position = about.vocabulary == about.outputs
    shape = (n, *about.input_shape) if per_position else (n,)
    return x, torch.randint(about.outputs, shape, generator=generator)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_model_is_tested_here():
    assert set(FITS) == set(registry.names("models"))


def test_lenet_has_the_44426_parameters_of_niid_bench():
    # Their SimpleCNNMNIST: fc 256-120-84-10 after 6@5x5 and 16@5x5.
    assert parameters(Lenet().build(META["mnist"])) == 44_426


def test_parameter_counts_in_closed_form():
    assert parameters(Linear().build(META["digits"])) == 64 * 10 + 10
    assert parameters(Linear(bias=False).build(META["table"])) == 13
    assert parameters(Mlp((7, 5)).build(META["table"])) == 13 * 7 + 7 + 7 * 5 + 5 + 5 + 1
    convolutions = (9 * 4 + 4) + (4 * 9 * 8 + 8) + 2 * (4 + 8)
    dense = (8 * 2 * 2 * 6 + 6) + (6 * 10 + 10)
    assert parameters(Cnn((4, 8), hidden=6).build(META["digits"])) == convolutions + dense
    text = meta(shape=(80,), outputs=90, vocabulary=90)
    two_layers = 4 * 16 * ((8 + 16 + 2) + (16 + 16 + 2))  # torch keeps two bias vectors per gate
    assert parameters(Lstm(hidden=16).build(text)) == 90 * 8 + two_layers + 17 * 90


@pytest.mark.parametrize(("name", "data"), PAIRS)
def test_outputs_have_the_agreed_shape(name, data):
    x, y = examples(data)
    module = models.build(registry.load("models", name)(), META[data], seed=1)
    output = module(x)
    assert output.shape == (*y.shape, META[data].outputs)
    assert torch.isfinite(output).all()
    loss = losses.LOSSES[losses.default(META[data].kind)](output, y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "data"), [pair for pair in PAIRS if pair[0] != "lstm"], ids="-".join
)
def test_per_example_gradients_in_one_call_equal_a_loop(name, data):
    x, y = examples(data)
    module = models.build(registry.load("models", name)(), META[data], seed=1)
    loss = losses.LOSSES[losses.default(META[data].kind)]
    weights = {key: value.detach() for key, value in module.named_parameters()}

    def one(weights, x, y):
        return loss(functional_call(module, weights, (x[None],)), y[None])

    together = vmap(grad(one), in_dims=(None, 0, 0))(weights, x, y)
    for i in range(len(x)):
        for key, value in grad(one)(weights, x[i], y[i]).items():
            torch.testing.assert_close(together[key][i], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data", SEQUENCES)
def test_lstm_keeps_examples_apart_so_that_a_loop_gives_per_example_gradients(data):
    # cuDNN-style LSTMs have no vmap rule; per-example gradients come from a loop (or from Opacus'
    # DPLSTM). Their mean is the gradient of the batch only if no example touches another.
    x, y = examples(data)
    module = models.build(Lstm(hidden=8), META[data], seed=1)
    loss = losses.LOSSES[losses.default(META[data].kind)]
    each = []
    for i in range(len(x)):
        values = torch.autograd.grad(loss(module(x[i : i + 1]), y[i : i + 1]), module.parameters())
        each.append(torch.cat([value.flatten() for value in values]))
    values = torch.autograd.grad(loss(module(x), y), module.parameters())
    batch = torch.cat([value.flatten() for value in values])
    torch.testing.assert_close(torch.stack(each).mean(dim=0), batch, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", [Lstm(hidden=8), Transformer(size=8, heads=2)])
def test_next_token_models_do_not_see_the_future(part):
    x, _ = examples("next token")
    module = models.build(part, META["next token"], seed=1).eval()
    before = module(x)
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 20
    after = module(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_transformer_attends_as_torch_does():
    part = Transformer(size=8, heads=2, layers=1)
    block = models.build(part, META["next token"], seed=1).blocks[0]
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.in_proj_bias.copy_(block.qkv.bias)
        reference.out_proj.weight.copy_(block.project.weight)
        reference.out_proj.bias.copy_(block.project.bias)
    x = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(12, 12, dtype=torch.bool).triu(1)
    expected, _ = reference(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(block.project(block._attend(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "data"), PAIRS)
def test_initial_weights_depend_on_the_seed_alone(name, data):
    part = registry.load("models", name)()
    torch.manual_seed(1)
    first = models.get_vector(models.build(part, META[data], seed=3))
    drawn = torch.rand(1)
    again = models.get_vector(models.build(part, META[data], seed=3))
    other = models.get_vector(models.build(part, META[data], seed=4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # torch's own stream was left where it was


@pytest.mark.parametrize("part", [Mlp(dropout=0.5), Cnn(dropout=0.5), Transformer(dropout=0.5)])
def test_dropout_drops_in_training_only(part):
    data = "next token" if isinstance(part, Transformer) else "digits"
    x, _ = examples(data)
    module = models.build(part, META[data], seed=1)
    assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


def test_linear_can_start_at_zero():
    assert not models.get_vector(Linear(zero=True).build(META["digits"])).any()


def test_mlp_without_hidden_layers_is_linear():
    assert parameters(Mlp(()).build(META["digits"])) == 650


def test_cnn_reads_every_usual_image_layout_the_same():
    image = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    outputs = [
        models.build(Cnn(), meta(shape=shape), seed=1)(image.reshape(2, *shape))
        for shape in ((64,), (8, 8), (1, 8, 8))
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_cnn_normalizes_each_example_by_itself():
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    module = models.build(Cnn(), META["digits"], seed=1).train()
    torch.testing.assert_close(module(x)[:1], module(torch.cat([x[:1], 9 * x[1:]]))[:1])


@pytest.mark.parametrize(
    ("part", "data", "path"),
    [
        (Cnn(), "table", "model.name"),
        (Lenet(), "digits", "model.name"),
        (Lenet(), "table", "model.name"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(part, data, path):
    with pytest.raises(ConfigError, match=r"mlp or linear|such as cnn") as caught:
        models.build(part, META[data], seed=1)
    assert caught.value.problems[0].path == path


def test_heads_must_divide_the_size():
    with pytest.raises(ConfigError, match=r"model.heads = 3"):
        Transformer(size=64, heads=3)


def test_lenet_on_colour_images_has_the_flat_size_of_its_convolutions():
    expected = 16 * math.prod([(((32 - 4) // 2) - 4) // 2] * 2)
    assert Lenet().build(META["colour"])[9].in_features == expected == 400
