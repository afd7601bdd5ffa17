"""Files found, downloaded from a real local server, verified; every way that can go wrong."""

import gzip
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedsim.data._source import File, default_data_dir, download, find, locate
from fedsim.errors import MissingDataError, NetworkError, SetupError

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


class Handler(BaseHTTPRequestHandler):
    """/good is the file, /short breaks off in the middle, all else is not there."""

    def do_GET(self) -> None:
        if self.path not in ("/good", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/good" else CONTENT[:1000])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on the test's stderr."""


@pytest.fixture
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_good_file_arrives_once_with_progress(server: str, tmp_path: Path) -> None:
    file = File("set/file.bin", SHA256, f"{server}/good")
    seen: list[tuple[str, int]] = []
    (path,) = locate("set", [file], tmp_path, lambda name, size: seen.append((name, size)))
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("set/file.bin", len(CONTENT))
    assert [size for _, size in seen] == sorted(size for _, size in seen)
    assert names_in(path.parent) == ["file.bin"]
    count = len(seen)
    assert locate("set", [file], tmp_path, lambda name, size: seen.append((name, size))) == [path]
    assert len(seen) == count  # not downloaded again


def test_a_wrong_hash_is_refused_and_not_kept(server: str, tmp_path: Path) -> None:
    file = File("set/file.bin", "0" * 64, f"{server}/good")
    with pytest.raises(MissingDataError, match=f"sha256 {SHA256}, not 0000.*not kept") as info:
        locate("set", [file], tmp_path)
    assert info.value.exit_code == 3
    assert names_in(tmp_path / "set") == []


def test_a_file_that_is_not_there(server: str, tmp_path: Path) -> None:
    file = File("set/file.bin", SHA256, f"{server}/nothing")
    with pytest.raises(NetworkError, match=r"'set'.*file\.bin is missing.*answered 404") as info:
        locate("set", [file], tmp_path)
    assert info.value.exit_code == 5
    assert "FEDSIM_DATA" in str(info.value)
    assert names_in(tmp_path / "set") == []


def test_a_download_that_breaks_off(server: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="broke off after 1000 of 3000000 bytes"):
        download(File("file.bin", SHA256, f"{server}/short"), tmp_path / "file.bin")
    assert names_in(tmp_path) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NetworkError, match="cannot be reached"):
        download(File("f", SHA256, f"http://127.0.0.1:{port}/good"), tmp_path / "f")
    assert names_in(tmp_path) == []


def test_a_local_file_with_another_hash_is_never_replaced(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"mine")
    file = File("file.bin", SHA256, f"{server}/good")
    with pytest.raises(MissingDataError, match=r"is not the published file.*Delete it and fetch"):
        locate("set", [file], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made(server: str, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file where a folder should be")
    file = File("set/deeper/file.bin", SHA256, f"{server}/good")
    with pytest.raises(SetupError, match="cannot write to"):
        download(file, tmp_path / file.path)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    assert default_data_dir() == str(tmp_path)
    (tmp_path / "a").write_text("x")
    assert find([File("a", "", "")], None) == [tmp_path / "a"]
    assert find([File("a", "", ""), File("b", "", "")], None) is None
    monkeypatch.delenv("FEDSIM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == str(tmp_path / ".cache" / "fedsim" / "data")


def test_idx_files_are_checked(tmp_path: Path) -> None:
    from fedsim.data._idx import read_idx

    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])))
    assert read_idx(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    path.write_bytes(b"no gzip")
    with pytest.raises(MissingDataError, match="not a gzip file"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01rest"))
    with pytest.raises(MissingDataError, match="not an IDX file of bytes"):
        read_idx(path)
