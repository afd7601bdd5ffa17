"""Models that DP-SGD cannot train, or not as they are: each is told so in one line, before it."""

from pathlib import Path

import pytest
import torch

from fedsim import losses, models, registry
from fedsim.config import load
from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.federation import build
from fedsim.models import UserModel
from fedsim.privacy import clipping
from fedsim.privacy.check import Finding, check_model, refusal
from fedsim.privacy.example import replace_lstm
from fedsim.privacy_check import must_fit

CROSS_ENTROPY = losses.LOSSES["cross_entropy"]
NUMBERS = Meta("made", "classification", (6,), 3, "")
IMAGES = Meta("made", "classification", (1, 6, 6), 3, "")
TOKENS = Meta("made", "classification", (5,), 3, "", 7)


@pytest.fixture(autouse=True)
def _user_code(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def built(name):
    """Return a user's model and a batch for it."""
    meta = TOKENS if name.endswith("tokens") else IMAGES if name.endswith("images") else NUMBERS
    module = models.build(UserModel(f"user_models:{name}"), meta, 1)
    stream = torch.Generator().manual_seed(3)
    x = torch.randn(4, *meta.input_shape, generator=stream)
    if meta.vocabulary:
        x = torch.randint(meta.vocabulary, (4, *meta.input_shape), generator=stream)
    return module, x, torch.randint(3, (4,), generator=stream)


#: model -> (what is said of it, its fix): it must not be trained
BROKEN = {
    "batch_norm": ("statistics over a batch mix its examples", "use nn.LayerNorm(8)"),
    "batch_norm_images": ("statistics over a batch mix its examples", "use nn.GroupNorm(4, 12)"),
    "projected_lstm": ("an LSTM with projections", "proj_size=0"),
    "overwriting": ("backward raises RuntimeError", "no in-place work"),
    "running_statistics": ("forward changes 2.running_mean", "track_running_stats=False"),
    "counting_buffer": ("forward changes total", "keep nothing of a batch"),
    "remembering": ("forward changes seen", "keep nothing of a batch"),
    "mean_over_the_batch": ("moves the outputs of others", "each example by itself"),
    "attention_over_the_batch": ("moves the outputs of others", "each example by itself"),
    "norm_over_the_batch": ("moves the outputs of others", "each example by itself"),
    "experts_with_capacity": ("moves the outputs of others", "no mean, sort, softmax or routing"),
    "loses_the_batch": ("4 examples give outputs of shape", "one output for each example"),
    "decides_by_the_batch": ("decides by the numbers it gets", "torch.where"),
    "calls_item": ("decides by the numbers it gets", "no .item()"),
    "around_the_layer": ("differ from one-by-one gradients", "only through their layers"),
    "old_weight_norm": ("cannot be copied", "nn.utils.parametrizations.weight_norm"),
    "spectral_norm": ("forward changes first.parametrizations", "leave spectral_norm out"),
    "sparse_tokens": ("embed is sparse", "sparse=False"),
    "bounded_tokens": ("has max_norm", "leave max_norm out"),
    "double": ("float64", "model.float()"),
}

#: model -> (what there is to note, its fix): it is trained, and rightly
NOTED = {
    "gru": ("cells: one backward pass for each example", "opacus.layers.DPGRU"),
    "rnn": ("cells: one backward pass for each example", "opacus.layers.DPRNN"),
    "shared_weights": ("5.weight = 3.weight", "untie"),
    "half_frozen": ("first: half frozen", "freeze whole layers"),
    "unused_head": ("head.weight, head.bias: no gradient", "requires_grad_(False)"),
    "in_place_relu": ("relu: outputs are copied", "inplace=False"),
    "own_dropout": ("draws from torch's generator", "use nn.Dropout"),
    "own_parameter": ("Own: no rule", "have rules"),
    "hooked": ("first: no rule", "have rules"),
    "weight_norm": ("first.parametrizations.weight: no rule", "have rules"),
    "counted_tokens": ("embed: gradients one by one", "leave scale_grad_by_freq out"),
}

GOOD = ("good", "dropout", "tokens", "padded_tokens")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_refused_with_a_fix_in_one_line(name):
    said, fix = BROKEN[name]
    module, x, y = built(name)
    failed = [f for f in check_model(module, CROSS_ENTROPY, x, y) if f.status == "fail"]
    assert any(said in f.found and fix in f.fix for f in failed), failed
    assert all(f.fix and "\n" not in f.found + f.fix for f in failed)
    assert said in refusal(module, CROSS_ENTROPY, x, y)


@pytest.mark.parametrize("name", NOTED)
def test_what_is_handled_is_noted_and_the_gradients_are_right(name):
    said, fix = NOTED[name]
    found = check_model(*with_loss(built(name)))
    assert all(f.status != "fail" for f in found), found
    assert any(said in f.found and fix in f.fix for f in found if f.status == "note"), found
    (compared,) = (f for f in found if f.name == "gradients compared")
    assert compared.status == "pass"
    assert refusal(*with_loss(built(name))) == ""


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_passes(name):
    found = check_model(*with_loss(built(name)))
    assert {f.status for f in found if f.name != "compared with Opacus"} == {"pass"}, found


def with_loss(given):
    module, x, y = given
    return module, CROSS_ENTROPY, x, y


WHOLE = {
    "linear": NUMBERS,
    "mlp": NUMBERS,
    "cnn": IMAGES,
    "lenet": Meta("made", "classification", (28, 28), 3, ""),
    "lstm": Meta("made", "classification", (7,), 9, "", 9),
    "transformer": Meta("made", "classification", (7,), 9, "", 9),
}


@pytest.mark.parametrize("name", registry.names("models"))
def test_every_built_in_model_passes_and_agrees_with_opacus(name):
    meta = WHOLE[name]
    module = models.build(registry.load("models", name)(), meta, 0, replace_lstm)
    x, y = torch.randn(4, *meta.input_shape), torch.randint(3, (4,))
    if meta.vocabulary:
        x, y = torch.randint(9, (4, 7)), torch.randint(9, (4, 7))
    found = {f.name: f for f in check_model(module, CROSS_ENTROPY, x, y)}
    assert all(f.status != "fail" for f in found.values())
    assert found["gradients compared"].status == "pass"
    assert found["compared with Opacus"].status == "pass"


def test_opacus_differs_where_it_is_wrong():
    """Opacus 1.6 counts gradients of padding, which torch says there are none of."""
    found = check_model(*with_loss(built("padded_tokens")))
    assert found[-2] == Finding("gradients compared", "pass", found[-2].found)
    assert found[-1].status == "note"
    assert "Opacus differs" in found[-1].found


@pytest.mark.parametrize("name", ["good", "dropout", "counting_buffer", "in_place_relu"])
def test_the_module_is_left_as_it_was(name):
    module, x, y = built(name)
    module.eval()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    state = torch.get_rng_state()
    check_model(module, CROSS_ENTROPY, x, y)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert not any(child.training for child in module.modules())
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["hooked", "old_weight_norm"])
def test_layers_that_do_more_than_their_kind_have_no_rule(name):
    assert clipping.layers_with_rules(built(name)[0]) is None


EXPERIMENT = {
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 5},
    "privacy": {"unit": "example", "noise_multiplier": 1.0},
}


@pytest.mark.parametrize(
    "name", ["mean_over_the_batch", "around_the_layer", "decides_by_the_batch"]
)
def test_a_run_refuses_what_the_check_does(name):
    """None of these would be noticed by its loss."""
    plain = EXPERIMENT | {"model": {"name": f"user_models:{name}"}}
    with pytest.raises(ConfigError, match=r"model\.name") as info:
        must_fit(build(load(plain, (), {})))
    assert BROKEN[name][0] in str(info.value)


def test_a_run_takes_what_it_can_train():
    for name in ("good", "lstm"):
        plain = EXPERIMENT | {"model": {"name": f"user_models:{name}"}}
        must_fit(build(load(plain, (), {})))
    plain = EXPERIMENT | {"model": {"name": "user_models:mean_over_the_batch"}}
    must_fit(build(load(plain, ["privacy.unit=user"], {})))  # whole updates are clipped
