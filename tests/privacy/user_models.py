"""Models as users bring them, `user_models:NAME`: most have something DP-SGD cannot do, or not so.

All take `meta`: inputs [n, 6] and 3 classes, or tokens [n, 5] of 7 for those with an embedding.
"""

import warnings

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Two dense layers; the others change something about them."""

    def __init__(self, inputs, outputs, hidden=8):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.second(self.between(self.first(x.flatten(1))))

    def between(self, x):
        return torch.tanh(x)


def size(meta):
    return int(torch.Size(meta.input_shape).numel()), meta.outputs


def good(meta):
    return Net(*size(meta))


def batch_norm(meta):
    inputs, outputs = size(meta)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Linear(8, outputs)
    )


def batch_norm_images(meta):
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Flatten(),
        nn.Linear(12 * meta.input_shape[-1] * meta.input_shape[-2], meta.outputs),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, kind, meta, **options):
        super().__init__()
        self.cells = kind(1, 4, batch_first=True, **options)
        self.out = nn.Linear(options.get("proj_size") or 4, meta.outputs)

    def forward(self, x):
        return self.out(self.cells(x.flatten(1).unsqueeze(-1))[0][:, -1])


def lstm(meta):
    return Recurrent(nn.LSTM, meta)


def projected_lstm(meta):
    return Recurrent(nn.LSTM, meta, proj_size=2)


def gru(meta):
    return Recurrent(nn.GRU, meta)


def rnn(meta):
    return Recurrent(nn.RNN, meta)


def shared_weights(meta):
    inputs, outputs = size(meta)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8),
        nn.Linear(8, outputs),
    )  # fmt: skip
    model[5].weight = model[3].weight
    return model


def half_frozen(meta):
    model = Net(*size(meta))
    model.first.weight.requires_grad_(False)
    return model


def unused_head(meta):
    model = Net(*size(meta))
    model.head = nn.Linear(8, 5)
    return model


class InPlace(Net):
    def __init__(self, *given):
        super().__init__(*given)
        self.relu = nn.ReLU(inplace=True)

    def between(self, x):
        return self.relu(x.add_(1.0))


def in_place_relu(meta):
    return InPlace(*size(meta))


class Overwriting(InPlace):
    def between(self, x):
        return self.relu(x).add_(1.0)  # what ReLU needs for its gradient is gone


def overwriting(meta):
    return Overwriting(*size(meta))


def running_statistics(meta):
    inputs, outputs = size(meta)
    norm = nn.InstanceNorm1d(1, track_running_stats=True)
    return nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (1, inputs)), norm, nn.Flatten(), nn.Linear(inputs, outputs)
    )


class Centred(Net):
    def between(self, x):
        return torch.tanh(x - x.mean(dim=0))


def mean_over_the_batch(meta):
    return Centred(*size(meta))


class Attending(Net):
    def between(self, x):
        return (x @ x.T / 8).softmax(dim=1) @ x


def attention_over_the_batch(meta):
    return Attending(*size(meta))


class Contrastive(Net):
    def between(self, x):
        return x / x.norm()


def norm_over_the_batch(meta):
    return Contrastive(*size(meta))


class Experts(Net):
    """Each expert takes one example and no more: who comes late is left out."""

    def __init__(self, *given):
        super().__init__(*given)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.router = nn.Linear(8, 2)

    def between(self, x):
        scores = self.router(x).softmax(dim=1)
        out = x.clone()
        for i, expert in enumerate(self.experts):
            first = functional.one_hot(scores[:, i].argmax(), len(x)).unsqueeze(1)
            out = out + first * scores[:, i : i + 1] * expert(x)
        return torch.tanh(out)


def experts_with_capacity(meta):
    return Experts(*size(meta))


class Deciding(Net):
    def between(self, x):
        return torch.tanh(x) if x.sum() > 1e6 else torch.relu(x)


def decides_by_the_batch(meta):
    return Deciding(*size(meta))


class Scaled(Net):
    def between(self, x):
        return torch.tanh(x) * max(1.0, x.abs().max().item() / 1e6)


def calls_item(meta):
    return Scaled(*size(meta))


class Noisy(Net):
    def between(self, x):
        return functional.dropout(torch.tanh(x), 0.3, training=self.training)


def own_dropout(meta):
    return Noisy(*size(meta))


def dropout(meta):
    inputs, outputs = size(meta)
    layers = nn.Linear(inputs, 8), nn.Dropout(0.5), nn.Linear(8, outputs)
    return nn.Sequential(nn.Flatten(), *layers)


class Own(Net):
    def __init__(self, *given):
        super().__init__(*given)
        self.scale = nn.Parameter(torch.full((8,), 1.5))

    def between(self, x):
        return torch.tanh(x * self.scale)


def own_parameter(meta):
    return Own(*size(meta))


class Around(Net):
    """Uses a layer's weight without the layer."""

    def between(self, x):
        return torch.tanh(x) + torch.tanh(functional.linear(x, self.second.weight)).sum(1, True)


def around_the_layer(meta):
    return Around(*size(meta))


def hooked(meta):
    model = Net(*size(meta))
    model.first.register_forward_hook(lambda layer, inputs, output: 3 * output)
    return model


def weight_norm(meta):
    model = Net(*size(meta))
    nn.utils.parametrizations.weight_norm(model.first)
    return model


def old_weight_norm(meta):
    model = Net(*size(meta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.first)
    return model


def spectral_norm(meta):
    model = Net(*size(meta))
    nn.utils.parametrizations.spectral_norm(model.first)
    return model


class Tokens(nn.Module):
    def __init__(self, meta, **options):
        super().__init__()
        self.embed = nn.Embedding(meta.vocabulary, 4, **options)
        self.out = nn.Linear(4, meta.outputs)

    def forward(self, x):
        return self.out(torch.tanh(self.embed(x)).mean(dim=1))


def tokens(meta):
    return Tokens(meta)


def padded_tokens(meta):
    return Tokens(meta, padding_idx=0)


def sparse_tokens(meta):
    return Tokens(meta, sparse=True)


def bounded_tokens(meta):
    return Tokens(meta, max_norm=0.5)


def counted_tokens(meta):
    return Tokens(meta, scale_grad_by_freq=True)


class Double(Net):
    def forward(self, x):
        return super().forward(x.double())


def double(meta):
    return Double(*size(meta)).double()


class Remembering(Net):
    """Keeps a mean of what it has seen, in no buffer."""

    def __init__(self, *given):
        super().__init__(*given)
        self.seen = torch.zeros(8)

    def between(self, x):
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(dim=0)
        return torch.tanh(x - self.seen)


def remembering(meta):
    return Remembering(*size(meta))


class Counting(Net):
    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("total", torch.zeros(1))

    def between(self, x):
        self.total += x.detach().sum()
        return torch.tanh(x)


def counting_buffer(meta):
    return Counting(*size(meta))


class Flat(Net):
    def forward(self, x):
        return super().forward(x).mean(dim=0, keepdim=True).expand(3, -1)


def loses_the_batch(meta):
    return Flat(*size(meta))
