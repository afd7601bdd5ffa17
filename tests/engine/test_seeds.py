"""Seeding torch where kinds of accelerators are missing."""

import pytest
import torch

from fedsim.environment import seed_what_is_there

KINDS = ("cuda", "xpu", "mtia")


@pytest.fixture
def calls(monkeypatch):
    """What was seeded, in the place of the functions that seed."""
    found = []
    for kind in KINDS:
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "manual_seed_all", lambda seed, k=kind: found.append((k, seed)))
    return found


@pytest.mark.parametrize("there", [(), ("cuda",), KINDS])
def test_only_what_is_there_is_seeded(there, calls, monkeypatch):
    for kind in KINDS:
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda k=kind: k in there)
    seed_what_is_there()
    torch.manual_seed(7)
    assert calls == [(kind, 7) for kind in there]


def test_numbers_are_those_of_torch(calls):
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_what_is_there()
    assert torch.equal(torch.rand(3, generator=torch.manual_seed(5)), expected)
    with pytest.raises(ValueError, match="seven"):
        torch.manual_seed("seven")
