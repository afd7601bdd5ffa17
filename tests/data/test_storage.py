"""Where files are: addresses, keys that must not be in them, a server of S3, Spark's layout."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedsim.config import load
from fedsim.data import ClientData, open_clients
from fedsim.data._storage import open_storage
from fedsim.data.documents import Documents
from fedsim.data.parquet import Parquet
from fedsim.data.partition.natural import Natural
from fedsim.errors import ConfigError, FedsimError, MissingDataError, SetupError


def opened(path: object, **more: object) -> ClientData:
    data = Parquet(path=str(path), **{"target": "outcome", **more})
    return open_clients(data, Natural(by="hospital"), seed=0, holdout=0.1)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://AKIA123:hunter2@bucket/set", {}),
        ("s3://bucket/set?secret_key=hunter2", {}),
        ("s3://bucket/set", {"secret_key": "hunter2"}),
        ("s3://bucket/set", {"access_key": "hunter2"}),
        ("abfs://c@account.dfs.core.windows.net/set?sig=hunter2", {}),
        ("abfs://c/set", {"sas_token": "hunter2"}),
        ("gs://bucket/set", {"access_token": "hunter2"}),
        ("sftp://me:hunter2@host/set", {}),
        ("sftp://host/set", {"password": "hunter2"}),
    ],
)
def test_keys_are_refused_and_not_shown(url: str, options: dict) -> None:
    for part in (Parquet, Documents):
        with pytest.raises(ConfigError, match="an experiment is kept with every run") as refused:
            part(path=url, options=options)
        assert "hunter2" not in str(refused.value)


def test_keys_are_refused_before_a_run() -> None:
    with pytest.raises(ConfigError) as refused:
        load("digits", ["data.name=parquet", "data.path=s3://me:hunter2@bucket/set"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "scheme", "path"),
    [
        ("rows/set", "file", str(Path("rows/set").absolute())),
        ("file:///rows/a%20set", "file", "/rows/a set"),
        ("s3://bucket/a/set/", "s3", "bucket/a/set"),
        ("s3a://bucket/set", "s3", "bucket/set"),
        ("gs://bucket/set", "gs", "bucket/set"),
        ("abfss://box@account.dfs.core.windows.net/a/set", "abfs", "box/a/set"),
        ("memory://set", "memory", "/set"),
    ],
)
def test_addresses(url: str, scheme: str, path: str) -> None:
    options = {"anonymous": True} if scheme in ("s3", "gs") else {}
    storage = open_storage(url, options)
    assert (storage.scheme, storage.path) == (scheme, path)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("", {}, "data.path = '': a file, a folder or a URL"),
        ("s4://bucket/set", {}, "data.path = 's4://bucket/set': a path, or a URL of s3, gs"),
        ("s3://bucket/set", {"regoin": "x"}, "data.options.regoin = 'x'.*Did you mean 'region'"),
        ("rows", {"region": "x"}, "data.options.region = 'x': unset for file"),
        ("abfs://box/set", {}, "abfs://CONTAINER@ACCOUNT"),
    ],
)
def test_addresses_that_cannot_be(
    url: str, options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    with pytest.raises(ConfigError, match=message):
        open_storage(url, options)


@pytest.mark.parametrize("url", ["hdfs://namenode:8020/set", "hdfs:///set", "viewfs://cluster/set"])
def test_hdfs_without_hadoop_says_what_it_needs(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("HADOOP_HOME") or os.environ.get("ARROW_LIBHDFS_DIR"):
        pytest.skip("Hadoop is here")
    with pytest.raises(SetupError, match=r"HDFS needs Hadoop's client library.*HADOOP_HOME") as e:
        open_storage(url, {})
    assert url in str(e.value)


def test_a_protocol_whose_package_is_missing_is_named() -> None:
    if find_spec("dropboxdrivefs"):
        pytest.skip("dropboxdrivefs is installed")
    with pytest.raises(SetupError, match=r"dropbox://set: dropbox needs a package that is not"):
        open_storage("dropbox://set", {})


# Its botocore asks for an older python-dateutil than is pinned here, and works with this one.
MOTO = (
    "moto boto3 botocore s3transfer jmespath werkzeug flask flask-cors itsdangerous blinker "
    "xmltodict responses py-partiql-parser"
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of S3, moto's, on a port of its own."""
    if find_spec("moto") is None:
        pytest.skip(f"moto is not installed: pip install --no-deps -c constraints.txt {MOTO}")
    log = tmp_path_factory.mktemp("s3") / "log"
    code = (
        "from moto.server import ThreadedMotoServer as S; import time; s = S(port=0);"
        "s.start(); print('port', s.get_host_and_port()[1], flush=True); time.sleep(600)"
    )
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")  # moto says something of its own before
        found = next((line.split()[1] for line in lines if line.startswith("port ")), "")
        assert found, log.read_text()
        yield f"127.0.0.1:{found}"
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


def _put(s3: str, path: str, content: bytes) -> None:
    kind = {"Content-Type": "application/octet-stream"}  # not a form, as urllib would say
    request = urllib.request.Request(f"http://{s3}/{path}", content, kind, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


def test_a_data_set_on_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stream = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": stream.integers(20, 90, 90),
            "hospital": np.repeat(["a", "b", "c"], 30),
            "outcome": stream.choice(["ill", "well"], 90),
        }
    )
    pq.write_to_dataset(pa.Table.from_pandas(frame), tmp_path / "set", partition_cols=["hospital"])
    _put(s3, "bucket", b"")
    for file in (tmp_path / "set").rglob("*.parquet"):
        name = file.relative_to(tmp_path).as_posix().replace("=", "%3D")
        _put(s3, f"bucket/{name}", file.read_bytes())
    where = {"endpoint_override": s3, "scheme": "http", "region": "us-east-1"}
    there, here = opened("s3://bucket/set", options=where), opened(tmp_path / "set")
    assert there.meta.sha256 == here.meta.sha256
    for client in range(3):
        assert np.array_equal(there.train(client).x, here.train(client).x)
    with pytest.raises(MissingDataError, match="s3://bucket/nothing"):
        opened("s3://bucket/nothing", options=where)


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    where = {"endpoint_override": "127.0.0.1:1", "scheme": "http", "region": "us-east-1"}
    started = time.monotonic()
    with pytest.raises(FedsimError, match=r"s3://bucket/set (cannot be read|is not open)") as e:
        opened("s3://bucket/set", options=where)
    assert e.value.exit_code in (3, 5)
    assert time.monotonic() - started < 120


def spark_layout(folder: Path) -> pd.DataFrame:
    """Write what Spark 3 and 4 write: names, folders, metadata, INT96 times, compression."""
    stream = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "age": stream.integers(20, 90, 240).astype(np.int32),
            "seen": pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(240), unit="h"),
            "dose": stream.integers(0, 9, 240) / 4,
            "outcome": stream.choice(["ill", "well"], 240),
            "ward": stream.choice(["a b", "c/d", "é"], 240),
        }
    )
    for i, (ward, rows) in enumerate(frame.groupby("ward")):
        from urllib.parse import quote

        place = folder / f"ward={quote(str(ward), safe=' ')}"
        place.mkdir(parents=True)
        table = pa.Table.from_pandas(rows.drop(columns="ward"), preserve_index=False)
        schema = b'{"type":"struct","fields":[{"name":"age","type":"integer","nullable":true}]}'
        table = table.replace_schema_metadata(
            {
                b"org.apache.spark.version": b"3.5.1",
                b"org.apache.spark.sql.parquet.row.metadata": schema,
            }
        )
        name = f"part-{i:05}-1b7f8b0c-6f0e-4a57-9a4f-1f2d4a3c9d10.c000.snappy.parquet"
        pq.write_table(
            table, place / name, compression="snappy", use_deprecated_int96_timestamps=True
        )
        (place / f".{name}.crc").write_bytes(b"crc\x00")
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "._SUCCESS.crc").write_bytes(b"crc\x00")
    return frame


@pytest.mark.parametrize(
    ("url", "namenode"),
    [
        ("hdfs://ana@namenode:8020/lake/a%20set", ("namenode", 8020, "ana")),
        ("hdfs://nameservice/lake/a set/", ("nameservice", 0, None)),
        ("hdfs:///lake/a set", ("default", 0, None)),
        ("viewfs://cluster/lake/a set", ("viewfs://cluster", 0, None)),
    ],
)
def test_a_data_set_at_a_path_of_hdfs(
    url: str, namenode: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a folder of this machine in the place of the cluster: nothing of Hadoop's is here."""
    from pyarrow import fs

    def connected(host: str, port: int, *, user: str | None) -> fs.FileSystem:
        assert (host, port, user) == namenode
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    monkeypatch.setattr(fs, "HadoopFileSystem", connected)
    spark_layout(tmp_path / "lake" / "a set")
    there, here = (
        open_clients(
            Parquet(path=str(path), target="outcome"), Natural(by="ward"), seed=0, holdout=0.1
        )
        for path in (url, tmp_path / "lake" / "a set")
    )
    assert there.meta.sha256 == here.meta.sha256
    assert np.array_equal(there.train(1).x, here.train(1).x)


def test_a_folder_as_spark_writes_it(tmp_path: Path) -> None:
    frame = spark_layout(tmp_path / "set")
    clients = open_clients(
        Parquet(path=str(tmp_path / "set"), target="outcome"),
        Natural(by="ward"),
        seed=0,
        holdout=0.1,
    )
    assert clients.meta.group_names == ("a b", "c/d", "é")
    assert clients.meta.input_shape == (3,)  # age, dose, seen
    frame.to_parquet(tmp_path / "plain.parquet")
    plain = open_clients(
        Parquet(path=str(tmp_path / "plain.parquet"), target="outcome"),
        Natural(by="ward"),
        seed=0,
        holdout=0.1,
    )
    assert clients.meta.sha256 == plain.meta.sha256
    # Rows that no ward is known of.
    shutil.copytree(tmp_path / "set" / "ward=a b", tmp_path / "set/ward=__HIVE_DEFAULT_PARTITION__")
    with pytest.raises(FedsimError, match=r"empty cells in: ward \(\d+ rows\)"):
        open_clients(
            Parquet(path=str(tmp_path / "set"), target="outcome"),
            Natural(by="ward"),
            seed=0,
            holdout=0.1,
        )


SPARK = """
import sys, datetime as dt, decimal
from pyspark.sql import SparkSession
from pyspark.sql.types import *
spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    .config("spark.sql.parquet.outputTimestampType", "INT96")
    .config("spark.sql.session.timeZone", "UTC").getOrCreate())
start = dt.datetime(2020, 1, 1)
rows = [(f"h{i % 4}" if i % 50 else None, float(i), i, bool(i % 2), start + dt.timedelta(hours=i),
         decimal.Decimal(i) / 4, [float(i), 1.0], start.date() + dt.timedelta(days=i),
         "yes" if i % 3 else "no") for i in range(200)]
kinds = [("hospital", StringType()), ("pressure", DoubleType()), ("age", IntegerType()),
         ("smokes", BooleanType()), ("seen", TimestampType()), ("dose", DecimalType(10, 2)),
         ("v", ArrayType(DoubleType())), ("born", DateType()), ("outcome", StringType())]
schema = StructType([StructField(name, kind) for name, kind in kinds])
made = spark.createDataFrame(rows, schema)
made.repartition(3).write.partitionBy("hospital").parquet(sys.argv[1])
spark.stop()
"""


@pytest.mark.slow
def test_a_data_set_that_spark_wrote(tmp_path: Path) -> None:
    if find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("pyspark needs Java")
    folder = tmp_path / "set"
    subprocess.run(
        [sys.executable, "-c", SPARK, str(folder)],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "TZ": "UTC"},
        check=True,
        capture_output=True,
    )
    check_spark(folder)


def check_spark(folder: Path) -> None:
    with pytest.raises(FedsimError, match=r"empty cells in: hospital \(4 rows\)"):
        opened(folder)
    clients = opened(folder, missing="drop")
    assert clients.meta.group_names == ("h0", "h1", "h2", "h3")
    names = [(feature.name, feature.width) for feature in clients.survey.encoding.features]
    assert names == [
        ("age", 1), ("born", 1), ("dose", 1), ("pressure", 1), ("seen", 1), ("smokes", 2), ("v", 2),
    ]  # fmt: skip
    whole = [(clients.train(i), clients.held_out(i)) for i in range(4)]
    assert [len(a.y) + len(b.y) for a, b in whole] == [48, 50, 48, 50]
    x = np.concatenate([part.x for pair in whole for part in pair])
    # The hour, the day, the dose and the pressure are all the row's number, scaled.
    for column in range(1, 5):
        assert np.allclose(x[:, column], x[:, 0], atol=1e-4)
    assert np.array_equal(np.sort(x[:, 7]), [i for i in range(200) if i % 50])
