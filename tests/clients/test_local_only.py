import pytest
import torch

from fedsim.clients.fedprox import FedProx
from fedsim.clients.local_only import LocalOnly
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.models import set_vector
from fedsim.optimizers.sgd import Sgd


@pytest.mark.parametrize("keep_optimizer", [False, True])
def test_rounds_alone_are_the_inner_algorithm_going_on_by_itself(keep_optimizer, task, ctx):
    optimizer = Sgd(lr=0.05, momentum=0.9)
    inner = LocalSgd(batch_size=7, keep_optimizer=keep_optimizer)
    part, server = LocalOnly(inner), torch.tensor([0.3, 0.2, 0.1])
    memo, own, own_memo = {}, server, {}
    for number in range(1, 5):
        update, memo = part.train(task(server, optimizer=optimizer), memo, ctx(number))
        assert not update.vector.any()
        alone = task(own, optimizer=optimizer)
        expected, own_memo = inner.train(alone, own_memo, ctx(number))
        own = own + expected.vector
        assert torch.equal(LocalOnly().personal(memo, server), own)
        assert update.metrics == expected.metrics
        assert update.weight == expected.weight


def test_a_client_that_has_not_trained_has_the_global_model():
    model = torch.tensor([1.0, 2.0])
    assert LocalOnly().personal({}, model) is model
    assert LocalOnly().personal({"model": model + 1}, model).tolist() == [2.0, 3.0]


def test_what_the_server_sends_later_does_not_matter(task, ctx):
    part = LocalOnly()
    _, memo = part.train(task(), {}, ctx(1))
    results = []
    for sent in (torch.zeros(3), torch.ones(3)):
        update, after = part.train(task(sent), memo, ctx(2))
        results.append((update.metrics["loss"], after["model"]))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_fedprox_alone_is_pulled_towards_the_clients_own_model(task, ctx):
    part = LocalOnly(FedProx(mu=1e6, epochs=3))
    own = torch.tensor([5.0, 5.0, 5.0])
    made = task(optimizer=Sgd(lr=1e-6))
    _, memo = part.train(made, {"model": own}, ctx())
    torch.testing.assert_close(memo["model"], own, rtol=0, atol=1e-3)
    set_vector(made.module, made.model)
