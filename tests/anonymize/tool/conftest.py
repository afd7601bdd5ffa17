"""A hospital's table, made up, and its schema."""

import numpy as np
import pandas as pd
import pytest

from fedsim.anonymize.schema import schema_from_dict

COLUMNS = {
    "name": {"role": "direct"},
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [5, 10, 20]},
    },
    "sex": {"role": "quasi", "hierarchy": {"name": "categories", "values": ["f", "m"]}},
    "zip": {"role": "quasi", "hierarchy": {"name": "prefix", "length": 3}},
    "diagnosis": {"role": "sensitive"},
    "note": {"role": "insensitive"},
}


def hospital(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "name": [f"Person Number{i}" for i in range(rows)],
            "age": rng.integers(0, 100, rows),
            "sex": rng.choice(["f", "m"], rows),
            "zip": [f"{z:03d}" for z in rng.integers(0, 40, rows)],
            "diagnosis": rng.choice(["flu", "cold", "gout", "none"], rows),
            "note": [f"n{i % 7}" for i in range(rows)],
        }
    )


@pytest.fixture
def frame():
    return hospital()


@pytest.fixture
def schema():
    return schema_from_dict({"columns": COLUMNS})


@pytest.fixture
def source(tmp_path, frame):
    path = tmp_path / "in.csv"
    frame.to_csv(path, index=False)
    return path
