"""Scattering features: Kymatio's numbers, convolution in space, and one copy for all processes."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import Dataset, Examples, Meta, open_clients, tensors
from fedsim.data._cache import Cache
from fedsim.data._contents import content_sha256
from fedsim.data._features import Features, as_features
from fedsim.data._scattering import channels_of, scattering
from fedsim.data.fashion_mnist import FashionMnist
from fedsim.data.mnist import Mnist
from fedsim.data.partition.iid import Iid
from fedsim.errors import SetupError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "scattering.json"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = 40, seed: int = 0) -> Dataset:
    """A data set of small images."""
    rng = np.random.default_rng(seed)

    def part(n: int) -> Examples:
        return Examples(rng.integers(0, 256, (n, 1, 12, 8), dtype=np.uint8), np.arange(n) % 3)

    train, test = part(count), part(count // 2)
    sha = content_sha256(train, test)
    meta = Meta("little", "classification", (1, 12, 8), 3, sha, mean=0.3, std=0.2)
    return Dataset(meta, train, test)


@dataclass(frozen=True)
class Little:
    """A data set with features, as the built-in ones have them."""

    features: Features = "scattering"

    def load(self, data_dir: Path | None) -> Dataset:
        return images()

    def featured(self, dealt: Dataset, cache: Cache | None) -> Dataset:
        return as_features(dealt, self.features, cache)


def test_numbers_are_those_of_kymatio() -> None:
    """Kymatio 0.3.0 writes 3.1415 for pi in what its filters are divided by, once per filter."""
    golden = json.loads(GOLDEN.read_text())
    theirs = torch.tensor(golden["features"])
    order = torch.tensor([0] + [1] * 16 + [2] * 64)
    theirs *= ((3.1415 / math.pi) ** (order + 1))[:, None, None]
    ours = scattering(torch.tensor(golden["image"])[None] / 10)[0]
    assert ours.shape == (81, 3, 4)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


def wave(side: int, sigma: float, angle: float, frequency: float, slant: float) -> np.ndarray:
    """A Gabor filter around the origin of a torus, straight from its formula."""
    total = np.zeros((side, side), complex)
    for shift_x in range(-2, 3):
        for shift_y in range(-2, 3):
            x, y = np.mgrid[:side, :side] + np.array([shift_x, shift_y])[:, None, None] * side
            u = x * np.cos(angle) + y * np.sin(angle)
            v = -x * np.sin(angle) + y * np.cos(angle)
            total += np.exp(-(u**2 + slant**2 * v**2) / (2 * sigma**2) + 1j * frequency * u)
    return total * slant / (2 * np.pi * sigma**2)


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Circular convolution, one tap after another."""
    total = np.zeros(x.shape, complex)
    for row, column in np.argwhere(np.abs(kernel) > 1e-12):
        total += kernel[row, column] * np.roll(x, (row, column), axis=(0, 1))
    return total


def test_first_order_is_convolution_in_space() -> None:
    image = noise(28, 28).double()
    padded = np.pad(image.numpy(), 4, mode="reflect")
    low = wave(36, 1.6, 0.0, 0.0, 1.0)
    found = scattering(image[None].float())[0]
    inner = slice(4, -4, 4)
    mean = convolve(padded, low).real[inner, inner]
    assert np.abs(found[0].numpy() - mean).max() < 1e-6
    for angle in range(8):
        turn = (3 - angle) * np.pi / 8
        gabor, envelope = (wave(36, 0.8, turn, f, 0.5) for f in (0.75 * np.pi, 0.0))
        morlet = gabor - gabor.sum() / envelope.sum() * envelope
        expected = convolve(np.abs(convolve(padded, morlet)), low).real[inner, inner]
        assert np.abs(found[1 + angle].numpy() - expected).max() < 1e-6


def test_a_constant_image_has_a_mean_and_nothing_else() -> None:
    found = scattering(torch.full((1, 16, 16), 0.7))[0]
    assert float((found[0] - 0.7).abs().max()) < 1e-5
    assert float(found[1:].abs().max()) < 1e-5


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_features_grow_with_the_image(factor: float, seed: int) -> None:
    x = noise(2, 12, 8, seed=seed)
    torch.testing.assert_close(scattering(x * factor), scattering(x) * factor, atol=0, rtol=1e-4)


def test_an_image_is_none_of_its_neighbours_business() -> None:
    """What privacy rests on: features of one image do not depend on another."""
    x = noise(70, 12, 12)
    changed = x.clone()
    changed[3] = 0
    first, second = scattering(x), scattering(changed)
    assert torch.equal(first[:3], second[:3])
    assert torch.equal(first[4:], second[4:])
    assert not torch.equal(first[3], second[3])
    torch.testing.assert_close(scattering(x[66:67])[0], first[66], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("scales", "angles"), [(1, 4), (2, 6), (3, 8)])
def test_channels_are_counted(scales: int, angles: int) -> None:
    assert scattering(noise(1, 32, 24), scales, angles).shape == (
        1, channels_of(scales, angles), 32 >> scales, 24 >> scales,
    )  # fmt: skip


@pytest.mark.parametrize("sides", [(4, 8), (10, 12), (2, 2)])
def test_images_that_do_not_fit_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        scattering(noise(1, *sides))


def test_features_stand_in_for_pixels(tmp_path: Path) -> None:
    dataset = images()
    assert as_features(dataset, "pixels", Cache(tmp_path)) is dataset
    found = as_features(dataset, "scattering", Cache(tmp_path))
    expected = scattering(torch.from_numpy(dataset.train.x[:, 0]) / 255).half().numpy()
    assert found.train.x.dtype == np.float16
    assert np.array_equal(found.train.x, expected)
    assert found.meta.input_shape == found.test.x.shape[1:] == (81, 3, 2)
    assert found.train.y is dataset.train.y
    assert found.meta.sha256 == dataset.meta.sha256  # a budget is that of the images
    without = as_features(dataset, "scattering", None)
    assert np.array_equal(without.test.x, found.test.x)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and "scattering" in path.name]


def base_of(array: np.ndarray) -> object:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return type(array).__name__


def test_features_are_computed_once_and_mapped(tmp_path: Path) -> None:
    dataset = images()
    first = as_features(dataset, "scattering", Cache(tmp_path))
    (folder,) = kept(tmp_path)
    before = (folder / "train.npy").stat()
    second = as_features(dataset, "scattering", Cache(tmp_path))
    assert (folder / "train.npy").stat() == before
    assert base_of(first.train.x) == base_of(second.test.x) == "mmap"
    assert np.array_equal(first.train.x, second.train.x)
    as_features(images(seed=1), "scattering", Cache(tmp_path))
    assert len(kept(tmp_path)) == 2


def test_who_comes_meanwhile_waits(tmp_path: Path) -> None:
    """The lock is on the file, so threads stand in for processes."""

    def file_of(dataset: Dataset) -> int:
        as_features(dataset, "scattering", Cache(tmp_path))
        (folder,) = kept(tmp_path)
        return (folder / "train.npy").stat().st_ino

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(file_of, [images(600)] * 2))
    assert found[0] == found[1]
    assert not list(tmp_path.glob(".part-*"))


def test_what_breaks_leaves_nothing_half_written(tmp_path: Path) -> None:
    dataset = images()
    broken = replace(dataset, test=replace(dataset.test, x=dataset.test.x[..., :6]))
    with pytest.raises(ValueError, match="multiples"):
        as_features(broken, "scattering", Cache(tmp_path))
    assert not kept(tmp_path)
    assert not list(tmp_path.glob(".part-*"))
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot write"):
        as_features(dataset, "scattering", Cache(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("is_cached", [True, False])
def test_clients_see_features(is_cached: bool, tmp_path: Path) -> None:
    cache = tmp_path if is_cached else None
    many = [
        open_clients(Little(), Iid(4), seed=seed, holdout=0.2, cache_dir=cache) for seed in (1, 2)
    ]
    for clients in many:
        assert clients.meta.input_shape == (81, 3, 2)
        x, y = tensors(clients.train(0), clients.meta)
        assert (x.dtype, x.shape) == (torch.float32, (len(y), 81, 3, 2))
        assert len(clients.held_out(0).y) == 2
        assert clients.test().x.dtype == np.float16
    if is_cached:
        assert len(kept(tmp_path)) == 1  # of two ways to deal out
    pixels = open_clients(Little("pixels"), Iid(4), seed=1, holdout=0.2, cache_dir=cache)
    assert pixels.meta.input_shape == (1, 12, 8)
    assert np.array_equal(pixels.train(0).y, many[0].train(0).y)


def test_the_image_sets_have_the_option() -> None:
    for part in (FashionMnist(features="scattering"), Mnist(features="scattering")):
        assert part.featured(images(), None).meta.input_shape == (81, 3, 2)


@pytest.fixture(scope="module")
def clothes(data_dir: Path) -> Dataset:
    """A corner of the real Fashion-MNIST."""
    if not (data_dir / "fashion-mnist").is_dir():
        pytest.skip("the files of fashion-mnist are not here")
    whole = FashionMnist().load(data_dir)
    train, test = (Examples(p.x[:1000], p.y[:1000]) for p in (whole.train, whole.test))
    return Dataset(whole.meta, train, test)


def accuracy(dataset: Dataset) -> float:
    """The test accuracy of ridge regression on standardized columns."""
    train, test = (
        p.x.reshape(len(p.x), -1).astype(np.float64) for p in (dataset.train, dataset.test)
    )
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-3
    train, test = (train - mean) / deviation, (test - mean) / deviation
    gram = train @ train.T + train.shape[1] * np.eye(len(train))
    scores = test @ (train.T @ np.linalg.solve(gram, np.eye(10)[dataset.train.y]))
    return float((scores.argmax(axis=1) == dataset.test.y).mean())


def test_clothes_are_told_apart_better_by_features(clothes: Dataset) -> None:
    features = as_features(clothes, "scattering", None)
    assert np.isfinite(features.train.x).all()
    assert accuracy(features) > accuracy(clothes) + 0.02
