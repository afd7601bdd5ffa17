"""Who trains on what in which step, and what padding costs."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core import ClientContext, Clipping, Recipe
from fedsim.privacy.sampling import poisson_batch
from fedsim.training import batches, client_keys
from fedsim.vectorized.schedule import (
    MOST_PADDING,
    MOST_POISSON_PADDING,
    batch_sizes,
    buckets,
    groups,
    plan_poisson,
    plan_steps,
)

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)
RECIPES = st.builds(
    Recipe,
    epochs=st.integers(1, 3),
    steps=st.one_of(st.none(), st.integers(1, 12)),
    batch_size=st.integers(0, 12),
)


def plan(sizes, recipe, *, full_batch=False):
    contexts = [ClientContext(3, 1, 10 + i) for i in range(len(sizes))]
    return plan_steps(sizes, recipe, contexts, CPU, full_batch=full_batch)


@given(size=st.integers(1, 40), recipe=RECIPES, full=st.booleans())
def test_batch_sizes_are_those_of_the_batches(size, recipe, full):
    order = batches(size, recipe, ClientContext(0, 1, 0), full_batch=full)
    assert batch_sizes(size, recipe, full_batch=full) == [len(batch) for batch in order]


@settings(deadline=None)
@given(sizes=SIZES, recipe=RECIPES, full=st.booleans())
def test_every_client_is_in_one_group_and_padding_is_bounded(sizes, recipe, full):
    found = groups(sizes, recipe, full_batch=full)
    assert sorted(i for group in found for i in group) == list(range(len(sizes)))
    for group in found:
        own = [sizes[i] for i in group]
        assert plan(own, recipe, full_batch=full).padding <= MOST_PADDING + 1e-9


@settings(deadline=None)
@given(sizes=SIZES, recipe=RECIPES, full=st.booleans())
def test_each_client_sees_the_batches_it_would_see_alone(sizes, recipe, full):
    for group in groups(sizes, recipe, full_batch=full):
        own = [sizes[i] for i in group]
        schedule = plan(own, recipe, full_batch=full)
        for row, size in enumerate(own):
            ctx = ClientContext(3, 1, 10 + row)
            alone = [b.tolist() for b in batches(size, recipe, ctx, full_batch=full)]
            active = [step for step in schedule.steps if row < step.clients]
            seen = [step.index[row, : step.counts[row]].tolist() for step in active]
            assert seen == alone
            assert int(schedule.seen[row]) == sum(len(batch) for batch in alone)
            for step in active:
                assert int(step.index[row].max()) < size
                if step.mask is not None:
                    assert step.mask[row].sum() == step.counts[row]


def test_clients_of_one_size_are_never_padded():
    assert plan([20] * 5, Recipe(batch_size=6)).padding == 1.0
    assert groups([20] * 5, Recipe(batch_size=6), full_batch=False) == [[0, 1, 2, 3, 4]]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).map(np.array))
def test_every_client_with_a_batch_is_in_one_bucket_and_padding_is_bounded(counts):
    found = buckets(counts)
    rows = [row for members, _ in found for row in members.tolist()]
    assert sorted(rows) == counts.nonzero()[0].tolist()
    for members, width in found:
        assert width == counts[members].max()
        assert len(members) * width <= MOST_POISSON_PADDING * counts[members].sum()


@settings(deadline=None)
@given(sizes=SIZES, recipe=RECIPES, full=st.booleans())
def test_each_client_sees_the_poisson_batches_it_would_see_alone(sizes, recipe, full):
    recipe = replace(recipe, clipping=Clipping(1.0, 1.0))
    for group in groups(sizes, recipe, full_batch=full):
        own = [sizes[i] for i in group]
        contexts = [ClientContext(3, 1, 10 + i) for i in range(len(own))]
        schedule = plan_poisson(own, recipe, contexts, CPU, full_batch=full)
        keys = torch.from_numpy(client_keys(contexts))
        for row, size in enumerate(own):
            expected, seen = schedule.expected[row], 0
            assert expected == (size if full else min(recipe.batch_size or size, size))
            active = [step for step in schedule.steps if row < step.clients]
            assert len(active) == recipe.steps or len(active) == recipe.epochs * -(
                -size // expected
            )
            for number, step in enumerate(active):
                alone = poisson_batch(keys[row : row + 1], size, expected / size, number)
                assert step.index[row, : step.counts[row]].tolist() == alone.tolist()
                assert step.index[row].numel() == 0 or int(step.index[row].max()) < size
                seen += len(alone)
            assert int(schedule.seen[row]) == seen
        assert 1 <= schedule.padding <= MOST_POISSON_PADDING
