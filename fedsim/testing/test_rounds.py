"""What a run needs of every strategy and local algorithm, in whole rounds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim import api, registry
from fedsim import config as configuration
from fedsim.core import is_asynchronous
from fedsim.errors import ConfigError, Interrupted, RunFailedError
from fedsim.events import Event, RoundDone
from fedsim.store import RunStore
from fedsim.testing._parts import optimum_of, strategy_of
from fedsim.testing._rounds import Pair, Run, flags_of, pairs, with_settings

ENGINE = {"grid": "inprocess", "tier": "resident"}


@pytest.fixture(params=pairs(), ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    """One strategy and local algorithm after the other."""
    found: Pair = request.param
    return found


def test_blocks_and_a_resume_change_no_bit(pair: Pair, tmp_path: Path) -> None:
    """Two rounds at once; and in other blocks, saved after the first and read again."""
    whole = Run(pair.content()).go(2)
    blocks = pair.content(engine={**ENGINE, "block_size": 1})
    first = Run(blocks).go(1)
    first.save(tmp_path / "checkpoint")
    rest = Run(blocks).load(tmp_path / "checkpoint").go(1)
    assert first.models + rest.models == whole.models
    assert len(set(whole.models)) == (1 if has_no_model(pair) else 2)


def has_no_model(pair: Pair) -> bool:
    """Say whether clients learn without a model that they share."""
    return optimum_of(strategy_of(pair.strategy)) == "none"


@pytest.mark.parametrize("lost", ["one", "all"])
def test_clients_that_are_lost_are_left_out(pair: Pair, lost: str) -> None:
    """One that never answers counts as lost; without any answer the round fails and says so."""
    count = pair.content()["data"]["clients"]
    run = Run(pair.content(), lost=range(count) if lost == "all" else (1,))
    if lost == "all":
        with pytest.raises(RunFailedError, match="0 of"):
            run.go(1)
        return
    if is_asynchronous(strategy_of(pair.strategy)):
        pytest.skip("whose answers make a step is by the virtual clock")
    run.go(1)
    assert [record.lost for record in run.records] == [1]
    assert torch.isfinite(run.state.strategy["model"]).all()


@pytest.mark.parametrize("flag", ["secure_sum", "user", "example", "local"])
def test_what_is_said_to_be_legal_runs_and_the_rest_is_refused(pair: Pair, flag: str) -> None:
    """The lists say what a part goes with: what they call legal runs, what not does not begin."""
    content: Any = with_settings(pair, flag)
    if not flags_of(pair)[flag]:
        with pytest.raises(ConfigError):
            configuration.load(content, (), {})
        return
    run = Run(content).go(1)
    assert torch.isfinite(run.state.strategy["model"]).all()
    moved = not torch.equal(run.state.strategy["model"].float(), run.federation.initial)
    assert moved != has_no_model(pair)


def test_who_needs_single_updates_is_legal_with_no_sum_that_hides_them(pair: Pair) -> None:
    """Whatever the check does, these must be refused: neither sum nor noise covers one update."""
    strategy: Any = registry.load("strategies", pair.strategy)
    local: Any = registry.load("clients", pair.local)
    flags = flags_of(pair)
    if getattr(strategy, "needs", "sum") == "updates":
        assert not flags["secure_sum"]
        assert not flags["user"]
    if getattr(local, "lanes", ()):
        assert not flags["user"]
        assert not flags["local"]


@pytest.mark.parametrize("local", registry.names("clients"))
def test_clients_trained_at_once_come_to_what_each_does_alone(local: str) -> None:
    """Where the list says vectorized: the tier gives the model of the plain one, up to rounding."""
    if not configuration.legality("clients", local)["vectorized"].is_legal:
        pytest.skip("it trains each client by itself")
    pair: Pair = next(found for found in pairs() if found.local == local)
    alone = Run(pair.content()).go(1).state.strategy["model"]
    engine = {**ENGINE, "tier": "vectorized", "block_size": 3}
    together = Run(pair.content(engine=engine)).go(1).state.strategy["model"]
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """One Ray for the runs of all pairs."""
    from fedsim.engine.own_ray import started

    with started(2):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ray_gives_the_bytes_of_this_process(pair: Pair, tmp_path: Path) -> None:
    """On two workers, stopped after its first round, and resumed on two others."""
    expected = Run(pair.content()).go(2).models
    engine = {"grid": "ray", "workers": 2, "tier": "resident", "block_size": 3}
    content = pair.content(engine=engine, storage={"report": False})
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        api.run(content, runs=tmp_path, listener=_stop)
    (stopped,) = RunStore(tmp_path).all()
    result = api.resume(stopped.id, runs=tmp_path)
    assert [entry["model_sha256"] for entry in result.history] == expected
    assert result.stored.facts["grid"] == "ray"


def _stop(event: Event) -> None:
    if isinstance(event, RoundDone):
        raise KeyboardInterrupt
