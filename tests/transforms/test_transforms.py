"""What is done to updates: numbers by hand, every client by itself, one vector per block."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fedsim
from fedsim import registry
from fedsim.coding import kind_of
from fedsim.config import load
from fedsim.errors import ConfigError
from fedsim.transforms.clip import Clip
from fedsim.vectorized.change import Change, encoded

MADE = [registry.load("transforms", name)() for name in registry.names("transforms")]
PARTS = [part for part in MADE if kind_of(part) == "dense"]


def test_clipping_by_hand():
    found = Clip(5.0).encode(torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]]))
    assert found.tolist() == [[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_a_clipped_update_is_inside_the_ball_and_points_where_it_did(numbers, norm):
    vector = torch.tensor([numbers])
    found = Clip(norm).encode(vector)
    assert float(torch.linalg.vector_norm(found.double())) <= norm * (1 + 1e-6)
    assert (found * vector >= 0).all()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
class TestContract:
    def test_every_client_by_itself(self, part):
        vectors = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
        alone = torch.cat([part.encode(row.unsqueeze(0)) for row in vectors])
        torch.testing.assert_close(part.encode(vectors), alone, rtol=1e-6, atol=1e-7)

    def test_what_is_not_finite_stays_so(self, part):
        vectors = torch.zeros(2, 5)
        vectors[0, 2], vectors[1, 1] = float("nan"), float("inf")
        assert not part.encode(vectors).isfinite().all(dim=1).any()

    def test_nothing_stays_nothing(self, part):
        assert not part.encode(torch.zeros(2, 5)).any()

    def test_a_stack_is_summed_as_its_vectors_are(self, part):
        module = nn.Linear(4, 3)
        stream = torch.Generator().manual_seed(2)
        stacked = [torch.randn(5, *p.shape, generator=stream) for p in module.parameters()]
        changes, weights = Change(module, stacked), torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0])
        stacked[0][1] = float("nan")  # of weight 0
        found = encoded(changes, part)
        rows = part.encode(changes.vectors())
        wanted = (rows.double() * weights.double().unsqueeze(1))[weights > 0].sum(dim=0)
        torch.testing.assert_close(found.weighted_sum(weights), wanted, rtol=1e-5, atol=1e-6)
        good = weights > 0
        torch.testing.assert_close(found.vectors()[good], rows[good])
        norms = torch.linalg.vector_norm(rows, dim=1)
        torch.testing.assert_close(found.norms()[good], norms[good])
        assert (found.largest()[good] >= rows.abs().amax(dim=1)[good] * (1 - 1e-6)).all()
        assert not found.largest()[1].isfinite()


SETTINGS = [
    "partition.clients=60",
    "partition.name=iid",
    "rounds.cohort=6",
    "rounds.count=2",
    "local.batch_size=8",
    "model.hidden=[16]",
    "engine.grid=inprocess",
    "evaluation.federated_every=0",
]


@pytest.mark.parametrize("part", ['{name="clip",clipping_norm=0.2}'])
@pytest.mark.parametrize("tier", ["messages", "vectorized", "low-rank"])
def test_a_run_is_that_of_the_resident_tier(part, tier, tmp_path):
    losses = {}
    for name in ("resident", tier):
        settings = [*SETTINGS, f"transform={part}", f"engine.tier={name}", "engine.block_size=4"]
        result = fedsim.run("digits", settings, runs=tmp_path / name)
        losses[name] = [entry["metrics"]["test/loss"] for entry in result.history]
    assert losses[tier] == pytest.approx(losses["resident"], rel=1e-5)


def test_a_bound_must_be_positive():
    with pytest.raises(ConfigError, match=r"transform\.clipping_norm"):
        load("digits", ["transform.name=clip", "transform.clipping_norm=0"])
