"""Hugging Face data sets: converted from a folder on disk; a clear error without a network."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data import open_clients
from fedsim.data.huggingface import Huggingface
from fedsim.data.partition.natural import Natural
from fedsim.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations inside the Hugging Face libraries


def save(folder: Path, splits: dict[str, dict[str, Any]], features: Any = None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset, DatasetDict, disable_progress_bars

        disable_progress_bars()
        tables = {k: Dataset.from_dict(v, features=features) for k, v in splits.items()}
        DatasetDict(tables).save_to_disk(str(folder))
    return str(folder)


def rows(count: int, offset: int = 0) -> dict[str, Any]:
    return {
        "x": [[float(i + offset), 1.0, 2.0] for i in range(count)],
        "label": [(i + offset) % 3 for i in range(count)],
        "writer": [f"w{i % 4}" for i in range(count)],
    }


def test_images_become_bytes_with_channels_first(tmp_path: Path) -> None:
    from datasets import ClassLabel, Features, Image

    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    split = {"image": list(pixels), "label": [0, 1, 0, 1, 0, 1]}
    path = save(tmp_path / "set", {"train": split, "test": split}, features)
    dataset = Huggingface(dataset=path).load(None)
    assert dataset.train.x.dtype == np.uint8
    assert np.array_equal(dataset.train.x, pixels.transpose(0, 3, 1, 2))
    assert dataset.train.y.tolist() == split["label"]
    assert dataset.meta.class_names == ("cat", "dog")
    assert dataset.meta.input_shape == (3, 5, 4)
    assert dataset.meta.mean == pytest.approx(pixels.mean() / 255)
    assert dataset.meta.std == pytest.approx(pixels.std() / 255)


def test_grey_images_get_one_channel(tmp_path: Path) -> None:
    from datasets import Features, Image, Value

    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    features = Features({"image": Image(), "label": Value("int64")})
    split = {"image": list(pixels), "label": [0, 1, 2, 1, 0]}
    path = save(tmp_path / "set", {"train": split, "test": split}, features)
    dataset = Huggingface(dataset=path).load(None)
    assert np.array_equal(dataset.train.x[:, 0], pixels)
    assert dataset.meta.outputs == 3


def test_numbers_and_natural_clients(tmp_path: Path) -> None:
    path = save(tmp_path / "set", {"train": rows(12), "test": rows(8, 100)})
    clients = open_clients(
        Huggingface(dataset=path, features="x"), Natural(by="writer"), seed=0, holdout=0.1
    )
    assert clients.clients == 4
    assert clients.meta.group_names == ("w0", "w1", "w2", "w3")
    assert sorted(clients.train(1).x[:, 0].tolist()) == [1, 5, 9]
    assert sorted(clients.held_out(1).x[:, 0].tolist()) == [101, 105]


def test_text_labels_and_real_targets(tmp_path: Path) -> None:
    text = rows(9) | {"label": ["b", "a", "c"] * 3}
    path = save(tmp_path / "text", {"train": text, "test": text})
    dataset = Huggingface(dataset=path, features="x").load(None)
    assert dataset.meta.class_names == ("a", "b", "c")
    assert dataset.train.y.tolist() == [1, 0, 2] * 3
    real = rows(9) | {"label": [0.5] * 9}
    path = save(tmp_path / "real", {"train": real, "test": real})
    dataset = Huggingface(dataset=path, features="x").load(None)
    assert (dataset.meta.kind, dataset.meta.outputs) == ("regression", 1)
    assert dataset.train.y.dtype == np.float32


def test_a_fifth_of_train_is_the_test_part_where_there_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "set", {"train": rows(50)})
    dataset = Huggingface(dataset=path, features="x").load(None)
    seen = np.concatenate([dataset.train.x[:, 0], dataset.test.x[:, 0]])
    assert len(dataset.test.y) == 10
    assert sorted(seen.tolist()) == list(range(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "y"}, r"data\.features = 'y': a column: x, label, writer"),
        ({"features": "x", "label": "lable"}, r"data\.label = 'lable'.*Did you mean 'label'"),
        ({"features": "x", "client": "who"}, r"data\.client = 'who': a column"),
        ({}, r"data\.features = None: the input column, one of: x, writer"),
        ({"features": "x", "train": "learn"}, r"data\.train = 'learn': a split: train, test"),
        ({"features": "x", "test": "exam"}, r"data\.test = 'exam': a split: train, test"),
    ],
)
def test_wrong_names_are_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "set", {"train": rows(6), "test": rows(3)})
    with pytest.raises(ConfigError, match=message):
        Huggingface(dataset=path, **options).load(None)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of save_to_disk"):
        Huggingface(dataset=str(tmp_path)).load(None)
    with pytest.raises(ConfigError, match=r"data\.dataset = ''"):
        Huggingface().load(None)
    ragged = rows(4) | {"x": [[1.0], [1.0, 2.0], [1.0], [1.0]]}
    path = save(tmp_path / "ragged", {"train": ragged, "test": ragged})
    with pytest.raises(DataError, match="different shapes"):
        Huggingface(dataset=path, features="x").load(None)
    text = rows(4) | {"x": ["some", "text", "to", "read"]}
    path = save(tmp_path / "text", {"train": text, "test": text})
    with pytest.raises(DataError, match="accepted are images and numbers"):
        Huggingface(dataset=path, features="x").load(None)


def test_without_a_network_it_fails_fast_and_says_so(tmp_path: Path) -> None:
    """In a process of its own, against a host name that has no address (RFC 2606)."""
    import os
    import subprocess
    import sys

    code = (
        "from fedsim.data.huggingface import Huggingface as H\n"
        "from fedsim.errors import NetworkError\n"
        "try: H(dataset='nobody/nothing').load(None)\n"
        "except NetworkError as error: print(error.exit_code, error)"
    )
    hidden = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("5 data.dataset = 'nobody/nothing': the Hugging Face hub did not")
    assert "save_to_disk" in done.stdout
    assert "Retrying" not in done.stderr  # the hub's own retries would take over 25 s
