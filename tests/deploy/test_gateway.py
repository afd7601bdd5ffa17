"""The gateway of containers, as HAProxy itself runs it: the Fleet API passes, nothing else does."""

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedsim import keys

CONFIGURATION = (
    Path(__file__).resolve().parents[2] / "deploy/kubernetes/fedsim/files/gateway.cfg"
)  # fmt: skip
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")


class Answer(BaseHTTPRequestHandler):
    """A server that answers everything, so that a refusal is the gateway's."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_POST  # noqa: N815 (http.server's names)

    def log_message(self, *_):
        pass


def make_keys(folder, host):
    """The server's folder as `fedsim deploy init` leaves it, with a certificate for `host`."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = keys.init(folder, profile="standard", hosts=[host], now=now, days=90, authority_days=900)
    shutil.copy(made.authority / "ca.crt", made.server / "ca.crt")
    return made.server


class Gateway:
    """HAProxy with the configuration that containers get, but for its port."""

    def __init__(self, folder, tls, server, name, port):
        self.name, self.port = name, port
        self.context = ssl.create_default_context(cafile=tls / "ca.crt")
        text = CONFIGURATION.read_text()
        assert text.count("bind :8000 ") == 1
        path = folder / "gateway.cfg"
        path.write_text(text.replace("bind :8000 ", f"bind 127.0.0.1:{port} "))
        environment = {"FEDSIM_TLS": str(tls), "FEDSIM_SERVER": server, "FEDSIM_SERVER_NAME": name}
        checked = subprocess.run(
            [HAPROXY, "-c", "-f", path],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
        self.log = (folder / "haproxy.log").open("w+")
        self.process = subprocess.Popen(
            [HAPROXY, "-W", "-db", "-f", path], env=environment, stdout=self.log, stderr=self.log
        )

    def ask(self, method, path):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection = http.client.HTTPSConnection("127.0.0.1", context=self.context)
        connection.sock = self.context.wrap_socket(raw, server_hostname=self.name)
        connection.request(method, path, headers={"content-length": "0"})
        status = connection.getresponse().status
        connection.close()
        return status

    def wait(self, status):
        deadline = time.monotonic() + 60
        while True:
            try:
                found = self.ask("GET", "/health")
            except OSError:
                found = None
            if found == status:
                return
            assert time.monotonic() < deadline, self.log_text()
            time.sleep(0.1)

    def log_text(self):
        return Path(self.log.name).read_text()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """(folder of keys, address) of a TLS server with the server's own certificate."""
    tls = make_keys(tmp_path_factory.mktemp("keys") / "keys", "server")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tls, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def gateway(upstream, tmp_path_factory):
    tls, address = upstream
    found = Gateway(tmp_path_factory.mktemp("gateway"), tls, address, "server", _port())
    found.wait(200)
    yield found
    found.stop()


def routes():
    """(method, path) of all that this Flower serves over protobuf."""
    from flwr.supercore.protobuf import translation

    tables = [table for table in vars(translation).values() if isinstance(table, dict)]
    return {
        key for table in tables for key in table
        if isinstance(key, tuple) and len(key) == 2 and str(key[1]).startswith("/v1/")
    }  # fmt: skip


def test_of_flower_s_routes_the_fleet_api_passes_and_no_other(gateway):
    found = {(method, path): gateway.ask(method, path) for method, path in routes()}
    assert {"/v1/fleet/", "/v1/control/", "/v1/runtime/"} <= {
        re.match(r"/v1/[a-z]+/", path).group() for _, path in found
    }
    for (method, path), status in found.items():
        assert status == (200 if path.startswith("/v1/fleet/") else 404), (method, path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol%2flist-runs",
        "//v1/control/list-runs",
        "/v1/control/list-runs?/v1/fleet/get-run",
        "/v1/fleet/",
        "/v1/fleet/get-run/more",
        "/v1/Fleet/get-run",
        "/docs",
        "/openapi.json",
        "/",
    ],
)
def test_no_spelling_gets_past_it(gateway, path):
    assert gateway.ask("POST", path) == 404
    assert gateway.ask("GET", path) == 404


def test_only_the_methods_that_nodes_use_pass(gateway):
    assert gateway.ask("GET", "/v1/fleet/get-run") == 404
    assert gateway.ask("PUT", "/v1/fleet/get-run") == 404
    assert gateway.ask("POST", "/health") == 404


def test_a_server_with_a_stranger_s_certificate_gets_nothing(upstream, tmp_path):
    """The gateway trusts its own authority only: who answers in the server's place is not asked."""
    _, address = upstream
    stranger = make_keys(tmp_path / "keys", "server")
    found = Gateway(tmp_path, stranger, address, "server", _port())
    try:
        found.wait(503)
        assert found.ask("POST", "/v1/fleet/get-run") == 503
    finally:
        found.stop()


def test_a_server_with_another_name_gets_nothing(upstream, tmp_path):
    tls, address = upstream
    found = Gateway(tmp_path, tls, address, "elsewhere", _port())
    found.name = "server"  # what its own certificate says
    try:
        found.wait(503)
        assert found.ask("POST", "/v1/fleet/get-run") == 503
    finally:
        found.stop()
