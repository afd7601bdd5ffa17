"""FedRep: who is trained when, and the representation that clients with one in common find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import losses
from fedsim.clients.fedrep import FedRep
from fedsim.core import ClientContext, Task
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.adamw import AdamW
from fedsim.optimizers.gd import Gd


def task_of(module, model, optimizer):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator)
    y = torch.randint(2, (12,), generator=generator)
    set_vector(module, model)
    return Task(module, model, x, y, losses.LOSSES["cross_entropy"], optimizer)


def test_the_head_is_trained_first_then_the_others_with_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model, lr = get_vector(module), 0.2
    is_head = torch.arange(len(model)) >= 3 * 4 + 4
    task, w = task_of(module, model, Gd(lr=lr)), model.clone()
    for own in (is_head, is_head, is_head, ~is_head):
        set_vector(module, w)
        loss = task.loss(module(task.x), task.y)
        parts = torch.autograd.grad(loss, list(module.parameters()))
        w = w - lr * torch.cat([part.flatten() for part in parts]) * own
    part = FedRep(head_epochs=3)
    update, memo = part.train(task_of(module, model, Gd(lr=lr)), {}, ClientContext(0, 1, 0))
    assert (update.vector[is_head] == 0).all()  # never sent
    torch.testing.assert_close(update.vector[~is_head], (w - model)[~is_head], rtol=0, atol=1e-6)
    torch.testing.assert_close(part.personal(memo, model)[is_head], w[is_head], rtol=0, atol=1e-6)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_what_is_frozen_stays_bit_by_bit_whatever_the_penalties_and_the_optimizer():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = get_vector(module)
    task = replace(task_of(module, model, AdamW(lr=0.1)), l1=0.01, l2=0.1)
    seen = []
    handle = module.register_forward_pre_hook(lambda m, _: seen.append(get_vector(m)))
    FedRep(head_epochs=2).train(task, {}, ClientContext(0, 1, 0))
    handle.remove()
    base = slice(0, 16)
    assert len(seen) == 3  # two steps on the head, one on the base
    assert torch.equal(seen[0][base], seen[2][base])
    assert not torch.equal(seen[0][16:], seen[2][16:])
    after = get_vector(module)
    assert torch.equal(seen[2][16:], after[16:])
    assert not torch.equal(seen[2][base], after[base])


@pytest.mark.slow
def test_clients_find_the_linear_representation_that_they_have_in_common():
    # Collins et al., section 5: y = x B w_i with B (6 x 2) for all and w_i of each client's own.
    rng = np.random.default_rng(0)
    planted, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 1, bias=False))
    shards = []
    for _ in range(8):
        x = rng.normal(size=(30, 6))
        y = x @ planted @ rng.normal(size=(2, 1)) * 1.5
        shards.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
    part = FedRep(head_epochs=8, steps=1)
    model, memos = get_vector(module), [{} for _ in shards]

    def away(vector):
        """The sine of the largest angle between the two column spaces."""
        own, _ = np.linalg.qr(vector[:12].numpy().reshape(2, 6).T.astype(np.float64))
        return np.linalg.norm(planted - own @ (own.T @ planted), ord=2)

    assert away(model) > 0.5
    for number in range(1, 41):
        moves = []
        for client, (x, y) in enumerate(shards):
            set_vector(module, model)
            task = Task(module, model, x, y, losses.LOSSES["mse"], Gd(lr=0.15))
            update, memos[client] = part.train(
                task, memos[client], ClientContext(0, number, client)
            )
            moves.append(update.vector)
        model = model + torch.stack(moves).mean(0)
    assert away(model) < 0.02
