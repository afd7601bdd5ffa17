"""Adult with ARX's hierarchies, let out in several ways."""

import pandas as pd
import pytest

from fedsim.anonymize.pipeline import Order, anonymize
from fedsim.anonymize.schema import schema_from_dict


@pytest.fixture(scope="session")
def adult(data_dir):
    """The raw table and its schema."""
    folder = data_dir / "adult-arx"
    raw = pd.read_csv(folder / "adult.csv", sep=";", dtype=str)
    columns = {
        name: {
            "role": "quasi",
            "hierarchy": {"name": "taxonomy", "file": f"adult_hierarchy_{name}.csv"},
        }
        for name in raw.columns[:-1]
    }
    ages = {"name": "intervals", "min": 17, "max": 90, "widths": [5, 10, 20]}
    columns["age"] = {"role": "quasi", "hierarchy": ages}
    columns["salary-class"] = {"role": "sensitive"}
    # A thread from each row that is let out to the one it was, for the judge and for nobody else.
    raw["thread"] = [f"t{i}" for i in range(len(raw))]
    columns["thread"] = {"role": "insensitive"}
    return raw, schema_from_dict({"columns": columns}, folder)


@pytest.fixture(scope="session")
def release(adult, tmp_path_factory):
    """Let rows of Adult out; the table that an attacker gets."""

    def run(rows=slice(None), pins=None, **options):
        raw, schema = adult
        folder = tmp_path_factory.mktemp("adult")
        raw[rows].to_csv(folder / "in.csv", index=False)
        anonymize(folder / "in.csv", schema, folder / "out.csv", Order(pins=pins, **options))
        return pd.read_csv(folder / "out.csv", dtype=str, keep_default_na=False)

    return run
