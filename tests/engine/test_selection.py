"""Selections in whole runs: unbiased sums, the sampler's state after a resume, any workers."""

import numpy as np
import pytest
import torch

import fedsim
from fedsim import choosing
from fedsim import config as configuration
from fedsim.answers import Answers
from fedsim.core import Update
from fedsim.federation import Places, build
from fedsim.store import RunStore

SMALL = {"model": {"name": "linear"}, "evaluation": {"central_every": 0, "federated_every": 0}}


def test_the_weighed_mean_is_unbiased_over_all_starts(tiny):
    content = tiny(**SMALL, strategy={"name": "fedavg"}, selection={"name": "importance"})
    federation = build(configuration.load(content), Places())
    sizes = federation.clients.sizes()
    dimension = federation.initial.numel()
    vectors = np.random.default_rng(0).normal(size=(9, dimension)).astype(np.float32)
    whole = sizes @ vectors.astype(np.float64) / sizes.sum()
    means = []
    for number in range(1, 401):
        drawn = choosing.chosen(federation, {}, number, 6)
        answers = Answers(factors=choosing.factors_of(drawn))
        for client in drawn.clients.tolist():
            vector = torch.from_numpy(vectors[client, :8])
            answers.updates[client] = Update(vector, float(sizes[client]))
        small = [u.weight * answers.factors[c] * u.vector.double().numpy()
                 for c, u in answers.updates.items()]  # fmt: skip
        means.append(np.sum(small, axis=0) / sizes.sum())
    error = np.std(means, axis=0) / np.sqrt(len(means))
    assert (abs(np.mean(means, axis=0) - whole[:8]) < 5 * error + 1e-6).all()
    full = {c: Update(torch.from_numpy(vectors[c]), float(sizes[c])) for c in answers.factors}
    total = choosing.weighted(federation, Answers(updates=full, factors=answers.factors))
    np.testing.assert_allclose(total.mean()[:8], means[-1], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oort", "power-of-choice", "importance", "cyclic", "poisson"])
def test_a_resumed_run_draws_as_a_whole_one(tiny, tmp_path, name):
    config = tiny(**SMALL, strategy={"name": "fedavg"}, selection={"name": name})
    config["rounds"]["cohort"] = 3
    whole = fedsim.run(config, runs=tmp_path / "whole")

    def stop(event):
        if type(event).__name__ == "RoundDone" and event.record.round == 3:
            raise KeyboardInterrupt

    with pytest.raises((fedsim.errors.Interrupted, KeyboardInterrupt)):
        fedsim.run(config, runs=tmp_path / "parts", listener=stop)
    (run,) = [p.name for p in (tmp_path / "parts").iterdir() if (p / "config.toml").exists()]
    resumed = fedsim.resume(run, runs=tmp_path / "parts")
    assert resumed.model_sha256 == whole.model_sha256
    cohorts = [
        [
            [row["client"] for row in RunStore(root).clients(id_, round=n, phase="train")]
            for n in range(1, 6)
        ]
        for root, id_ in ((tmp_path / "whole", whole.run_id), (tmp_path / "parts", run))
    ]
    assert cohorts[0] == cohorts[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oort", "importance"])
def test_any_number_of_workers_draws_and_sums_alike(tiny, tmp_path, cluster, name):
    found = set()
    for engine in ({"grid": "inprocess"}, {"workers": 1}, {"workers": 3}):
        own = {"grid": "ray", "tier": "resident", **engine}
        config = tiny(**SMALL, strategy={"name": "fedavg"}, selection={"name": name}, engine=own)
        found.add(fedsim.run(config, runs=tmp_path / str(engine)).model_sha256)
    assert len(found) == 1
