"""Adult with ARX's hierarchies, from the folder of real data sets."""

import pytest

from fedsim.anonymize.schema import schema_from_dict
from fedsim.anonymize.table import encode


@pytest.fixture(scope="session")
def adult(data_dir):
    """Return the encoded table: eight quasi-identifiers, salary-class is sensitive."""
    import pandas as pd

    folder = data_dir / "adult-arx"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    frame = pd.read_csv(folder / "adult.csv", sep=";")
    columns = {
        name: {
            "role": "quasi",
            "hierarchy": {"name": "taxonomy", "file": f"adult_hierarchy_{name}.csv"},
        }
        for name in frame.columns[:-1]
    }
    columns["age"]["hierarchy"] = {
        "name": "intervals",
        "min": 17,
        "max": 90,
        "widths": [5, 10, 20],
    }
    columns["salary-class"] = {"role": "sensitive"}
    return encode(frame, schema_from_dict({"columns": columns}, folder))
