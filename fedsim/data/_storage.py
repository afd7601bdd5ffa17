"""Where files are, by URL: this machine, S3, Google Cloud, Azure, HDFS, or what fsspec reaches.

Keys never come from an experiment, which is kept with every run and shown in reports: each service
looks in its usual environment variables and files. An address that has one in it is refused.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from fedsim.errors import (
    ConfigError,
    DataError,
    FedsimError,
    MissingDataError,
    NetworkError,
    Problem,
    SetupError,
)
from fedsim.registry import suggest

__all__ = ["Found", "Storage", "check_no_secrets", "listed", "open_storage", "told"]

_UNSHOWN = "the experiment"  # in place of the text that was given, which has the key in it
_SECRET = re.compile(
    r"secret|passw|pwd|token|credential|signature|private|(^|_)(sas|sig|key|access_key|account_key)$",
    re.IGNORECASE,
)
# scheme -> what may be said of it in data.options; all else, and every key, is the environment's
_OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme", "anonymous", "role_arn", "connect_timeout",
           "request_timeout", "force_virtual_addressing", "tls_ca_file_path"),
    "gs": ("anonymous", "endpoint_override", "scheme", "project_id", "target_service_account"),
    "abfs": ("account_name", "blob_storage_authority", "blob_storage_scheme",
             "dfs_storage_authority", "dfs_storage_scheme", "tenant_id", "client_id"),
    "hdfs": ("user", "kerb_ticket", "buffer_size", "extra_conf"),
    "file": (),
}  # fmt: skip
_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "viewfs": "hdfs"}
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or the machine's role)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or the machine's service account)",
    "abfs": "AZURE_STORAGE_KEY (or what DefaultAzureCredential finds, as after az login)",
    "hdfs": "KRB5CCNAME (kinit)",
}
_DENIED = re.compile(r"ACCESS_DENIED|FORBIDDEN|403|401|InvalidAccessKey|Unauthenticated|credential",
                     re.IGNORECASE)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A place in a file system; `url` is how the user calls it."""

    url: str
    scheme: str
    filesystem: Any  # pyarrow.fs.FileSystem
    path: str

    def open(self, path: str) -> Any:
        """Open a file for reading anywhere in it. Raises as `told` does."""
        with told(self):
            return self.filesystem.open_input_file(path)


@dataclass(frozen=True, slots=True)
class Found:
    """A file: its path under the data set's own, and what changes when its contents do."""

    path: str
    name: str
    size_bytes: int
    changed_ns: int


def check_no_secrets(url: str, options: Mapping[str, Any], key: str = "data.path") -> None:
    """Raise `ConfigError` where an address or option holds a password or a key; none is shown."""
    parts = urlsplit(url)
    problems = []
    accepted = "without a key or password in it: an experiment is kept with every run"
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    has_password = "@" in parts.netloc and ":" in parts.netloc.rsplit("@", 1)[0]
    keys_go = _where_keys_go(parts.scheme)
    if has_password or any(_SECRET.search(name) for name in names):
        shown = f"{parts.scheme}://...{parts.path}"
        problems.append(Problem(key, shown, f"an address {accepted}", keys_go, _UNSHOWN))
    for name in options:
        if _SECRET.search(name):
            where = f"data.options.{name}"
            problems.append(Problem(where, "...", f"unset; {accepted}", keys_go, _UNSHOWN))
    if problems:
        raise ConfigError(problems)


def open_storage(url: str, options: Mapping[str, Any], key: str = "data.path") -> Storage:
    """Return the place that a URL names; nothing of it is read.

    Raises `ConfigError` for an address or options that cannot be, `SetupError` where what reaches
    it is not installed.
    """
    if not url:
        raise ConfigError([Problem(key, url, "a file, a folder or a URL")])
    check_no_secrets(url, options, key)
    parts = urlsplit(url)
    # One letter is a drive.
    given = parts.scheme.lower() if len(parts.scheme) > 1 and "://" in url else "file"
    scheme = _SAME.get(given, given)
    if scheme in _OPTIONS:
        _check_options(options, scheme)
    if scheme == "file":
        return _local(url)
    try:
        if scheme == "s3":
            return Storage(url, scheme, _s3(options), _bucket_path(url))
        if scheme == "gs":
            return Storage(url, scheme, _gs(options), _bucket_path(url))
        if scheme == "abfs":
            return _azure(url, options, key)
        if scheme == "hdfs":
            return _hdfs(url, options, given)
        return _fsspec(url, scheme, options, key)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise _unopened(url, scheme, error) from error


def listed(storage: Storage, endings: tuple[str, ...], key: str = "data.path") -> list[Found]:
    """Return the data set's files in the order of their names: the file itself, or the folder's.

    What begins with `_` or `.` is no data (`_SUCCESS`, `_metadata`, `.crc`), as in Spark and Arrow.
    Raises `MissingDataError` where there is nothing, and as `told` does.
    """
    from pyarrow.fs import FileSelector, FileType

    with told(storage):
        place = storage.filesystem.get_file_info(storage.path)
        if place.type == FileType.NotFound:
            raise MissingDataError(f"{key} = {storage.url!r}: there is no such file or folder")
        if place.type == FileType.File:
            infos, base = [place], storage.path.rsplit("/", 1)[0]
        else:
            selector = FileSelector(storage.path, recursive=True)
            infos, base = storage.filesystem.get_file_info(selector), storage.path
    found = [
        Found(info.path, _under(base, info.path), info.size or 0, info.mtime_ns or 0)
        for info in infos
        if info.type == FileType.File
    ]
    data = [file for file in found if not _is_hidden(file.name) and file.size_bytes]
    fitting = sorted((f for f in data if f.name.lower().endswith(endings)), key=lambda f: f.name)
    if not fitting:
        seen = f"; it has {data[0].name}" if data else ""
        ends = ", ".join(endings)
        raise ConfigError([Problem(key, storage.url, f"files that end in {ends}{seen}")])
    return fitting


@contextmanager
def told(storage: Storage) -> Iterator[None]:
    """Say what is wrong with a place in the user's terms.

    Raises `MissingDataError` for what is not there, `SetupError` where keys are missing or do not
    open it, `NetworkError` where it cannot be reached, `DataError` for contents that are broken.
    """
    try:
        yield
    except FedsimError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingDataError(f"{storage.url}: there is no such file: {error}") from error
    except OSError as error:
        raise _unread(storage, error) from error
    except (ValueError, NotImplementedError) as error:  # ArrowInvalid is one
        raise DataError(f"{storage.url} cannot be read: {_line(error)}") from error


def _check_options(options: Mapping[str, Any], scheme: str) -> None:
    known = _OPTIONS[scheme]
    accepted = f"an option of {scheme}: {', '.join(known)}" if known else f"unset for {scheme}"
    problems = [
        Problem(f"data.options.{name}", value, accepted, suggest(name, known))
        for name, value in options.items()
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def _local(url: str) -> Storage:
    from pyarrow.fs import LocalFileSystem

    path = unquote(urlsplit(url).path) if url.startswith("file://") else url
    return Storage(url, "file", LocalFileSystem(), str(Path(path).absolute()))


def _s3(options: Mapping[str, Any]) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    patience = {
        "connect_timeout": 10.0,
        "request_timeout": 60.0,
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=3),
    }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(**{**patience, **({"region": region} if region else {}), **options})


def _gs(options: Mapping[str, Any]) -> Any:
    from datetime import timedelta

    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(retry_time_limit=timedelta(seconds=60), **options)


def _azure(url: str, options: Mapping[str, Any], key: str) -> Storage:
    """Read abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, or abfs://CONTAINER/PATH."""
    from pyarrow.fs import AzureFileSystem

    parts = urlsplit(url)
    container, _, host = parts.netloc.rpartition("@")
    if not container:
        container, host = host, ""
    named = options.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    account = host.split(".")[0] or named
    if not account:
        accepted = "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        hint = "Or name the account: data.options.account_name or AZURE_STORAGE_ACCOUNT."
        raise ConfigError([Problem(key, url, accepted, hint)])
    others = {name: value for name, value in options.items() if name != "account_name"}
    filesystem = AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_KEY"), **others)
    return Storage(url, "abfs", filesystem, f"{container}{unquote(parts.path)}".rstrip("/"))


def _hdfs(url: str, options: Mapping[str, Any], given: str) -> Storage:
    """Read hdfs://NAMENODE:PORT/PATH, hdfs://NAMESERVICE/PATH, or hdfs:///PATH for the default."""
    from pyarrow.fs import HadoopFileSystem

    parts = urlsplit(url)
    host = f"viewfs://{parts.netloc}" if given == "viewfs" else parts.hostname or "default"
    user = options.get("user") or parts.username
    others = {name: value for name, value in options.items() if name != "user"}
    # Port 0 asks Hadoop's own configuration, which knows what a name service is.
    filesystem = HadoopFileSystem(host, parts.port or 0, user=user, **others)
    return Storage(url, "hdfs", filesystem, unquote(parts.path).rstrip("/") or "/")


def _fsspec(url: str, scheme: str, options: Mapping[str, Any], key: str) -> Storage:
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:  # an unknown protocol; a missing package is an ImportError
        accepted = "a path, or a URL of s3, gs, abfs, hdfs, file or a protocol of fsspec"
        hint = suggest(scheme, [*_OPTIONS, *_SAME])
        raise ConfigError([Problem(key, url, accepted, hint)]) from error
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return Storage(url, scheme, PyFileSystem(FSSpecHandler(filesystem)), path)


def _bucket_path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}".rstrip("/")


def _unopened(url: str, scheme: str, error: Exception) -> FedsimError:
    """Say why a file system could not be made."""
    if isinstance(error, ImportError):
        return SetupError(f"{url}: {scheme} needs a package that is not installed: {_line(error)}")
    if isinstance(error, (TypeError, ValueError)):
        return ConfigError([Problem("data.options", url, f"options that fit: {_line(error)}")])
    if scheme == "hdfs":
        return SetupError(
            f"{url}: HDFS needs Hadoop's client library and Java on this machine: {_line(error)}. "
            "Set HADOOP_HOME (or ARROW_LIBHDFS_DIR), JAVA_HOME and "
            "CLASSPATH=$(hadoop classpath --glob)"
        )
    return _unread(Storage(url, scheme, None, ""), OSError(str(error)))


def _unread(storage: Storage, error: OSError) -> FedsimError:
    message = _line(error)
    if storage.scheme == "file":
        return MissingDataError(f"{storage.url} cannot be read: {message}")
    if _DENIED.search(str(error)):
        keys_go = _where_keys_go(storage.scheme)
        return SetupError(f"{storage.url} is not open to this machine: {message}. {keys_go}")
    return NetworkError(f"{storage.url} cannot be read: {message}")


def _where_keys_go(scheme: str) -> str:
    keys = _KEYS.get(_SAME.get(scheme, scheme), "the environment variables of the service")
    return f"Keys come from the environment of every machine that reads: {keys}."


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _under(base: str, path: str) -> str:
    return path.removeprefix(base).lstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part[0] in "._" for part in name.split("/") if part)
