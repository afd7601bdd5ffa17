"""The same bytes whoever runs it: in process, on 1, 2 or 4 workers, folded or not."""

import json
from collections import Counter

import pytest

import fedsim
from fedsim import config as configuration
from fedsim.clients.app import app
from fedsim.engine.blocks import Handlers, Population, WorkerCode
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.ray import RayGrid, RayWorkers
from fedsim.federation import Places, from_text, to_text
from fedsim.messages import fold
from fedsim.rounds import run_rounds, start_state

TIMED = ("real_seconds", "seconds")


def facts(result):
    """All a run recorded but times: one line per round."""
    rows = [
        {k: v for k, v in entry.items() if k not in (*TIMED, "run_id")} for entry in result.history
    ]
    return [json.dumps(row, sort_keys=True) for row in rows]


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    return fedsim.run(tiny(), runs=tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("workers", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_ray_gives_the_bytes_of_in_process(workers, tiny, reference, cluster, tmp_path):
    config = tiny(engine={"grid": "ray", "workers": workers})
    result = fedsim.run(config, runs=tmp_path)
    assert result.model_sha256 == reference.model_sha256
    assert facts(result) == facts(reference)
    assert result.stored.facts["workers"] == workers


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_block_size_changes_nothing(size, tiny, reference, tmp_path):
    result = fedsim.run(tiny(engine={"block_size": size}), runs=tmp_path)
    assert facts(result) == facts(reference)


@pytest.mark.parametrize("folding", [fold, None])
def test_folding_changes_nothing_in_process(folding, tiny, reference):
    text = to_text(configuration.load(tiny()), Places())
    federation = from_text(text)
    grid = InProcessGrid(Handlers(app, folding), Population(9, {"experiment": text}), size=3)
    last = list(run_rounds(grid, grid.population.nodes, federation, start_state(federation)))[-1][0]
    assert last.model_sha256 == reference.model_sha256
    assert last.metrics == pytest.approx(reference.history[-1]["metrics"], abs=0)


@pytest.mark.parametrize("folding", ["fedsim.messages:fold", None])
@pytest.mark.slow
def test_folding_changes_nothing_on_ray(folding, tiny, reference, cluster):
    text = to_text(configuration.load(tiny()), Places())
    federation = from_text(text)
    population = Population(9, {"experiment": text})
    workers = RayWorkers(WorkerCode("fedsim.clients.app:app", fold=folding), population, 2)
    grid = RayGrid(workers, size=2)
    last = list(run_rounds(grid, population.nodes, federation, start_state(federation)))[-1][0]
    workers.close()
    assert last.model_sha256 == reference.model_sha256


def test_nothing_is_built_for_each_client(tiny, tmp_path, monkeypatch):
    """Of modules, optimizers and state dicts there are as many for six clients as for two."""
    import torch

    built = Counter()

    def count(kind, name):
        method = getattr(kind, name)

        def counted(self, *arguments, **options):
            built[kind.__name__, name] += 1
            return method(self, *arguments, **options)

        monkeypatch.setattr(kind, name, counted)

    count(torch.nn.Module, "__init__")
    count(torch.nn.Module, "state_dict")
    count(torch.optim.Optimizer, "__init__")
    found = []
    for cohort in (2, 6):
        built.clear()
        fedsim.run(tiny(rounds={"count": 1, "cohort": cohort}), runs=tmp_path)
        found.append(dict(built))
    assert found[0] == found[1]
    assert found[0]["Module", "__init__"] > 0


def test_another_seed_gives_another_model(tiny, reference, tmp_path):
    other = fedsim.run({**tiny(), "seed": 6}, runs=tmp_path)
    assert other.model_sha256 != reference.model_sha256


def test_torch_threads_do_not_matter_and_are_restored(tiny, reference, tmp_path):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert fedsim.run(tiny(), runs=tmp_path).model_sha256 == reference.model_sha256
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_inside_a_running_event_loop(tiny, reference, tmp_path):
    import asyncio

    async def notebook():
        return fedsim.run(tiny(), runs=tmp_path)

    result = asyncio.run(notebook())
    assert result.model_sha256 == reference.model_sha256
    assert "<svg" in result._repr_html_()
