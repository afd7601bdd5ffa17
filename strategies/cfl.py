"""Clustered federated learning: where clients pull apart, they get models of their own.

Sattler, Mueller and Samek, "Clustered federated learning: model-agnostic distributed multitask
optimization under privacy constraints", IEEE TNNLS 2021. Each cluster runs FedAvg (Algorithm 4).
Once its mean update is short, |sum_i n_i/n d_i| < `eps1`, but some client's is not, max_i |d_i| >
`eps2` (equations 29 and 30), it is split in two such that the largest cosine similarity between
updates of the two parts is least (equation 18, Algorithm 1), if sqrt((1 - that) / 2) > `gamma`
(theorem 1). The clients' half, `clients/cfl.py`, trains the model of its cluster.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Update

__all__ = ["Cfl", "bipartition"]


@dataclass(frozen=True, slots=True)
class Cfl:
    """FedAvg in each cluster, which is split where it stands still and its clients do not.

    A cluster is split only in a round that all of its clients answered: with `rounds.cohort` unset.
    Every client is sent all models, and which one is whose. The server's own test is of the first
    cluster's model alone.
    """

    eps1: Annotated[float, Gt(0)] = 0.4
    eps2: Annotated[float, Gt(0)] = 1.6
    gamma: Annotated[float, Ge(0), Lt(1)] = 0.72
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    optimum: ClassVar = "mean"
    goes_with: ClassVar = ("cfl",)

    def init(self, model: Tensor) -> State:
        """Begin with one cluster of everybody."""
        return {"model": model, "cluster_of": torch.zeros(0, dtype=torch.int64)}

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send the models of the other clusters and whose they are, once there are any."""
        others = {name: vector for name, vector in state.items() if name.startswith("cluster/")}
        return {**others, "cluster_of": state["cluster_of"]} if others else {}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move every cluster by its clients' mean update; split those that are due."""
        clients = list(ctx.clients) or list(range(len(total)))
        of = state["cluster_of"].clone()
        if not len(of):
            of = torch.zeros(max(ctx.population, *(c + 1 for c in clients)), dtype=torch.int64)
        after: State = dict(state)
        for own in range(int(of.max()) + 1):
            places = [i for i, client in enumerate(clients) if int(of[client]) == own]
            if not places:
                continue
            vectors = torch.stack([total[i].vector.double() for i in places])
            weights = torch.tensor([total[i].weight for i in places], dtype=torch.float64)
            mean = (weights[:, None] * vectors).sum(0) / weights.sum()
            model = state[_name(own)] + self.lr * mean
            after[_name(own)] = model
            is_whole = len(places) == int((of == own).sum())
            if is_whole and (leaving := self._leaving(vectors, mean)):
                new = sum(name.startswith("cluster/") for name in after) + 1
                after[_name(new)] = model.clone()
                of[[clients[places[i]] for i in leaving]] = new
        return {**after, "cluster_of": of}

    def _leaving(self, vectors: Tensor, mean: Tensor) -> list[int]:
        """Return which of a cluster's clients are to leave it; none where it is not to be split."""
        lengths = vectors.norm(dim=1)
        if len(vectors) < 2 or float(mean.norm()) >= self.eps1 or float(lengths.max()) < self.eps2:
            return []
        unit = vectors / lengths.clamp(min=1e-30)[:, None]
        leaving, similarity = bipartition(unit @ unit.T)
        return leaving if math.sqrt(max(0.0, (1 - similarity) / 2)) > self.gamma else []


def bipartition(similarity: Tensor) -> tuple[list[int], float]:
    """Return the part without client 0, and the largest similarity between the two parts.

    That is least of all bipartitions: pairs are joined from the most similar on, as long as more
    than two parts are left (Algorithm 1; a maximum spanning tree without its weakest edge).

    >>> bipartition(torch.tensor([[1, 0.9, -0.5], [0.9, 1, -0.4], [-0.5, -0.4, 1]]))
    ([2], -0.4000000059604645)
    """
    count = len(similarity)
    part = list(range(count))
    first, second = torch.triu_indices(count, count, offset=1)
    order = similarity[first, second].argsort(descending=True, stable=True).tolist()
    left = count
    for k in order:
        a, b = part[int(first[k])], part[int(second[k])]
        if a == b:
            continue
        if left == 2:
            leaving = [i for i in range(count) if part[i] != part[0]]
            return leaving, float(similarity[first[k], second[k]])
        part = [a if own == b else own for own in part]
        left -= 1
    raise ValueError("fewer than two clients cannot be parted")


def _name(cluster: int) -> str:
    return f"cluster/{cluster}" if cluster else "model"
