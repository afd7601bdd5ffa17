"""The built-in sets hold what their publishers say they hold."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.data import Dataset
from fedsim.data.adult import Adult
from fedsim.data.breast_cancer import BreastCancer
from fedsim.data.diabetes import Diabetes
from fedsim.data.digits import Digits
from fedsim.data.fashion_mnist import FashionMnist
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.mnist import Mnist
from fedsim.data.shakespeare import Shakespeare


def groups(dataset: Dataset, part: str) -> np.ndarray:
    group = getattr(dataset, part).group
    assert group is not None
    return group


def test_heart_disease_is_that_of_flamby(data_dir: Path) -> None:
    """FLamby (NeurIPS 2022), table of Fed-Heart-Disease: 303/261/46/130 patients, 13 features."""
    dataset = HeartDisease().load(data_dir)
    assert np.bincount(groups(dataset, "train")).tolist() == [199, 172, 30, 85]
    assert np.bincount(groups(dataset, "test")).tolist() == [104, 89, 16, 45]
    assert dataset.meta.input_shape == (13,)
    assert dataset.meta.group_names == ("Cleveland", "Hungary", "Switzerland", "Long Beach")
    for hospital in range(4):
        x = dataset.train.x[groups(dataset, "train") == hospital].astype(np.float64)
        assert np.abs(x.mean(axis=0)).max() < 1e-5
        is_constant = x.std(axis=0) == 0
        assert np.abs(x.std(axis=0)[~is_constant] - 1).max() < 1e-5


def test_heart_disease_rows_are_the_files(data_dir: Path) -> None:
    """The first Cleveland patient in the file: a man of 63 with angina of type 1 and ECG 2."""
    from fedsim.data.heart_disease import _read

    x, y = _read(data_dir / "heart-disease" / "processed.cleveland.data")
    # age, sex, chest pain 2, 3, 4, pressure, cholesterol, sugar, ECG 1, 2, rate, angina, oldpeak
    assert x[0].tolist() == [63, 1, 0, 0, 0, 145, 233, 1, 0, 1, 150, 0, 2.3]
    assert np.bincount(y).tolist() == [164, 139]


@pytest.mark.parametrize(
    ("part", "mean", "std"), [(Mnist(), 0.1307, 0.3081), (FashionMnist(), 0.2860, 0.3530)]
)
def test_images_have_the_known_pixels(
    part: Mnist | FashionMnist, mean: float, std: float, data_dir: Path
) -> None:
    """Means and deviations that everybody standardizes these two with."""
    dataset = part.load(data_dir)
    assert dataset.train.x.shape == (60_000, 1, 28, 28)
    assert dataset.test.x.shape == (10_000, 1, 28, 28)
    assert dataset.train.x.dtype == np.uint8
    assert dataset.train.x.mean() / 255 == pytest.approx(mean, abs=1e-4)
    assert dataset.train.x.std() / 255 == pytest.approx(std, abs=1e-4)
    assert (dataset.meta.mean, dataset.meta.std) == (mean, std)
    assert np.bincount(dataset.test.y).min() >= 892  # MNIST's rarest digit in the test part


def test_adult_has_the_published_shares(data_dir: Path) -> None:
    """adult.names: 24.78 % over 50K with and 23.93 % without unknowns; files: 7,841 and 3,846."""
    dataset = Adult().load(data_dir)
    assert (len(dataset.train.y), dataset.train.y.sum()) == (32_561, 7_841)
    assert (len(dataset.test.y), dataset.test.y.sum()) == (16_281, 3_846)
    # 5 numbers; 9+16+7+15+6+5+2+42 values of the 8 categories, of which `?` is one where it occurs
    assert dataset.meta.input_shape == (5 + 9 + 16 + 7 + 15 + 6 + 5 + 2 + 42,)
    one_hot = dataset.train.x[:, np.isin(dataset.train.x, (0, 1)).all(axis=0)]
    assert (one_hot.sum(axis=1) == 8).all()


def test_shakespeare_has_141_speakers(data_dir: Path) -> None:
    """char-rnn's file: 65 characters; 309 roles are named, 10 of them without a line to say."""
    dataset = Shakespeare().load(data_dir)
    assert len(dataset.meta.group_names) == 141
    assert len(Shakespeare(min_characters=1).load(data_dir).meta.group_names) == 299
    assert dataset.meta.vocabulary == dataset.meta.outputs == 65
    text = (data_dir / "tinyshakespeare" / "input.txt").read_text()
    alphabet = sorted(set(text))
    romeo = dataset.meta.group_names.index("ROMEO")
    first = dataset.train.x[groups(dataset, "train") == romeo][0]
    said = "".join(alphabet[token] for token in first)
    assert said.startswith("Is the day so young?")
    assert text.count(said.split("\n")[0]) >= 1


def test_shakespeare_targets_are_the_next_characters(data_dir: Path) -> None:
    dataset = Shakespeare(length=20).load(data_dir)
    for part in (dataset.train, dataset.test):
        assert np.array_equal(part.x[:, 1:], part.y[:, :-1])
    assert dataset.train.x.shape[1:] == (20,)


def test_digits_are_split_evenly_over_classes() -> None:
    dataset = Digits().load(None)
    assert (len(dataset.train.y), len(dataset.test.y)) == (1437, 360)
    total = np.bincount(dataset.train.y) + np.bincount(dataset.test.y)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # sklearn's page
    assert np.abs(np.bincount(dataset.test.y) / total - 0.2).max() < 0.005
    assert abs(float(dataset.train.x.mean())) < 0.01
    assert float(dataset.train.x.std()) == pytest.approx(1, abs=0.01)


def test_breast_cancer_has_212_malignant_of_569() -> None:
    dataset = BreastCancer().load(None)
    assert int(dataset.train.y.sum() + dataset.test.y.sum()) == 212
    assert len(dataset.train.y) + len(dataset.test.y) == 569


def test_diabetes_targets_are_standardized_by_the_training_part() -> None:
    dataset = Diabetes().load(None)
    assert dataset.train.y.dtype == np.float32
    assert dataset.train.y.astype(np.float64).mean() == pytest.approx(0, abs=1e-6)
    assert dataset.train.y.astype(np.float64).std() == pytest.approx(1, abs=1e-6)
    assert abs(dataset.test.y.mean()) > 1e-3  # by the training part's mean, not its own
    assert len(dataset.train.y) + len(dataset.test.y) == 442


def test_least_squares_on_diabetes_gets_the_known_fit() -> None:
    """scikit-learn's own example on this set: R^2 near 0.5 on held-out rows."""
    dataset = Diabetes().load(None)
    x = np.c_[dataset.train.x, np.ones(len(dataset.train.x))]
    weights = np.linalg.lstsq(x, dataset.train.y, rcond=None)[0]
    error = np.c_[dataset.test.x, np.ones(len(dataset.test.x))] @ weights - dataset.test.y
    assert 0.35 < 1 - error.var() / dataset.test.y.var() < 0.65
