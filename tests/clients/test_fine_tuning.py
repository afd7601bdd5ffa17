"""Local fine-tuning: FedAvg in training, and a longer training before a client uses the model."""

import torch

from fedsim.clients.fine_tuning import FineTuning
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.models import get_vector, set_vector


def test_training_is_that_of_sgd_and_what_is_used_has_been_trained_further(task, ctx):
    part = FineTuning(own_epochs=4, epochs=2, batch_size=8)
    given = task()
    plain, _ = LocalSgd(epochs=2, batch_size=8).train(given, {}, ctx())
    set_vector(given.module, given.model)
    update, memo = part.train(given, {}, ctx())
    assert torch.equal(update.vector, plain.vector)
    assert memo == {}
    assert part.recipe == LocalSgd(epochs=2, batch_size=8).recipe  # many clients at once
    set_vector(given.module, given.model)
    longer, _ = LocalSgd(epochs=4, batch_size=8).train(given, {}, ctx(3))
    set_vector(given.module, given.model)
    used = get_vector(part.adapted(given, {}, ctx(3)))
    torch.testing.assert_close(used, given.model + longer.vector)
