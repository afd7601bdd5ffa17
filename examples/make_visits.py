"""Make a small data set of visits to clinics, as files, a database and documents.

python examples/make_visits.py visits    then: fedsim run examples/visits-parquet.toml
"""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def made(clinics: int = 6, visits: int = 60) -> pd.DataFrame:
    """Return made-up visits; whether a patient is ill depends on age and pulse."""
    stream = np.random.default_rng(0)
    count = clinics * visits
    age, pulse = stream.integers(20, 90, count), stream.normal(72, 9, count).round(1)
    chance = 1 / (1 + np.exp(-(age - 55) / 8 - (pulse - 72) / 6))
    return pd.DataFrame(
        {
            "clinic": np.repeat([f"clinic-{i}" for i in range(clinics)], visits),
            "age": age,
            "pulse": pulse,
            "sex": stream.choice(["f", "m"], count),
            "outcome": np.where(stream.random(count) < chance, "ill", "well"),
        }
    )


def write(folder: Path) -> None:
    """Write the same visits in three ways."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = made()
    pq.write_to_dataset(
        pa.Table.from_pandas(rows, preserve_index=False),
        folder / "parquet",
        partition_cols=["clinic"],
        existing_data_behavior="delete_matching",
    )
    with closing(sqlite3.connect(folder / "visits.db")) as database:
        rows.to_sql("visits", database, index=False, if_exists="replace")
        database.commit()
    documents = [
        {
            "clinic": row["clinic"],
            "patient": {"age": {"$numberInt": str(row["age"])}, "sex": row["sex"]},
            "pulse": row["pulse"],
            "outcome": row["outcome"],
        }
        for row in rows.to_dict("records")
    ]
    text = "\n".join(json.dumps(document) for document in documents)
    (folder / "visits.jsonl").write_text(text + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "visits"))
