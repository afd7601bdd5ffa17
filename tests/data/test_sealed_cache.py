"""The cache of prepared data, sealed: the same clients, and nothing readable on the disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data import open_clients
from fedsim.data._cache import Cache
from fedsim.data._features import as_features
from fedsim.data._types import Dataset, Examples, Meta
from fedsim.data.digits import Digits
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.errors import SealingError, SetupError
from fedsim.sealing import StorageKeys, rewrap_file, sealed_files

KEYS = StorageKeys.of(bytes(range(32)))
OPTIONS: dict[str, Any] = {"seed": 5, "holdout": 0.2}


def test_a_sealed_cache_holds_the_same(tmp_path: Path) -> None:
    plain = open_clients(Digits(), Dirichlet(20), **OPTIONS)
    for _ in range(2):
        sealed = open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path, keys=KEYS)
        assert sealed.meta == plain.meta
        assert np.array_equal(sealed.sizes(), plain.sizes())
        for client in range(20):
            for name in ("train", "held_out"):
                a, b = getattr(sealed, name)(client), getattr(plain, name)(client)
                assert np.array_equal(a.x, b.x)
                assert np.array_equal(a.y, b.y)
        assert np.array_equal(sealed.test().x, plain.test().x)
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-sealed")


def test_no_example_is_in_the_files(tmp_path: Path) -> None:
    clients = open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path, keys=KEYS)
    rows = [np.ascontiguousarray(row).tobytes() for row in clients.test().x[:50]]
    labels = clients.test().y.tobytes()
    content = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(content) == len(list(sealed_files(tmp_path))) > 5
    for sealed in content:
        assert not any(row in sealed for row in rows)
        assert labels not in sealed
        assert b"class_names" not in sealed
        assert b"NUMPY" not in sealed
    # The same search finds them in a plain cache.
    open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path / "plain")
    found = [path.read_bytes() for path in (tmp_path / "plain").rglob("*.npy")]
    assert any(rows[0] in plain for plain in found)
    assert any(labels in plain for plain in found)


def test_another_key_or_a_changed_file(tmp_path: Path) -> None:
    def opened(keys: StorageKeys) -> None:
        open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path, keys=keys)

    opened(KEYS)
    with pytest.raises(SetupError, match="not among the keys"):
        opened(StorageKeys.of(bytes(32)))
    path = next(p for p in sealed_files(tmp_path) if p.name == "train_x.npy.sealed")
    sealed = path.read_bytes()
    path.write_bytes(sealed[:-1])
    with pytest.raises(SealingError, match=r"train_x\.npy\.sealed does not open"):
        opened(KEYS)
    path.write_bytes((path.parent / "test_x.npy.sealed").read_bytes())
    with pytest.raises(SealingError, match=r"file = 'test_x\.npy', not 'train_x\.npy'"):
        opened(KEYS)


def test_a_cache_of_one_seed_is_not_taken_for_that_of_another(tmp_path: Path) -> None:
    def opened(seed: int) -> None:
        options: dict[str, Any] = {"seed": seed, "holdout": 0.2, "cache_dir": tmp_path}
        open_clients(Digits(), Dirichlet(20), **options, keys=KEYS)

    opened(1)
    (one,) = tmp_path.iterdir()
    opened(2)
    (two,) = set(tmp_path.iterdir()) - {one}
    (one / "indices.npy.sealed").write_bytes((two / "indices.npy.sealed").read_bytes())
    opened(2)
    with pytest.raises(SealingError, match="another file under this name"):
        opened(1)


def test_a_cache_with_another_key_opens_after_rotation(tmp_path: Path) -> None:
    open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path, keys=KEYS)
    both = StorageKeys.of(*KEYS.keys.values(), bytes(32))
    assert all(rewrap_file(path, both) for path in sealed_files(tmp_path))
    new = StorageKeys.of(bytes(32))
    clients = open_clients(Digits(), Dirichlet(20), **OPTIONS, cache_dir=tmp_path, keys=new)
    assert clients.clients == 20


def test_features_are_sealed_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [
        Examples(rng.integers(0, 256, (n, 1, 12, 8), np.uint8), np.zeros(n, np.int64))
        for n in (600, 5)
    ]
    meta = Meta("little", "classification", (1, 12, 8), 2, "sha")
    dataset = Dataset(meta, *parts)
    without = as_features(dataset, "scattering", None)
    for _ in range(2):
        found = as_features(dataset, "scattering", Cache(tmp_path, KEYS))
        assert np.array_equal(found.train.x, without.train.x)
        assert np.array_equal(found.test.x, without.test.x)
        assert found.train.x.dtype == np.float16
    row = without.train.x[3].tobytes()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4  # two arrays, facts, and a lock
    assert not any(row in content for content in files)
