"""What deploy/ray gives to clouds, Slurm and Kubernetes, against schemas and by a dry run."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "ray"
SLURM = FOLDER / "slurm.sh"
CLOUDS = ("aws", "gcp", "azure")
MANIFESTS = ("raycluster", "rayjob")


def schemas():
    spec = importlib.util.spec_from_file_location("kuberay", Path(__file__).with_name("kuberay.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SCHEMAS


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cluster_file_is_what_ray_up_takes(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(FOLDER / f"{cloud}.yaml"))
    validate_config(prepared)
    assert prepared["provider"]["type"] == cloud
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "worker_nodes_typo": {}})


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cluster_has_gpu_workers_of_the_type_of_its_head(cloud):
    """The server's device decides for all clients."""
    kinds = read(FOLDER / f"{cloud}.yaml")["available_node_types"]
    gpus = {
        "aws": lambda node: re.match(r"(\w+)\.", node["InstanceType"])[1],
        "gcp": lambda node: node["guestAccelerators"][0]["acceleratorType"],
        "azure": lambda node: re.search(
            r"_(T4|A10|A100|H100)_", node["azure_arm_parameters"]["vmSize"]
        )[1],
    }[cloud]
    assert gpus(kinds["head"]["node_config"]) == gpus(kinds["gpu-worker"]["node_config"])
    assert kinds["gpu-worker"]["max_workers"] >= 1
    if cloud != "aws":  # there Ray asks the cloud
        assert all(kind["resources"]["GPU"] == 1 for kind in kinds.values())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_of_a_cloud_install_the_pinned_versions_and_tell_nobody(cloud):
    config = read(FOLDER / f"{cloud}.yaml")
    install = next(line for line in config["setup_commands"] if "pip install --python" in line)
    assert "-c ~/fedsim/constraints.txt ~/fedsim " in install
    assert any("RAY_USAGE_STATS_ENABLED=0" in line for line in config["setup_commands"])
    (start,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert "--disable-usage-stats" in start


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_what_kuberay_takes(name):
    manifest = read(FOLDER / "kuberay" / f"{name}.yaml")
    schema = schemas()[manifest["kind"]]
    jsonschema.Draft202012Validator(schema).validate(manifest)
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    spec["workerGroupSpec"] = spec["workerGroupSpecs"]
    with pytest.raises(jsonschema.ValidationError, match="'workerGroupSpec' was unexpected"):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_have_gpus_of_one_type_what_they_mount_and_no_more_rights_than_they_need(name):
    manifest = read(FOLDER / "kuberay" / f"{name}.yaml")
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert spec["rayVersion"] == version("ray")
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert len({str(pod["nodeSelector"]) for pod in pods}) == 1
    for pod in pods:
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_image_has_the_pinned_ray():
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert base == f"rayproject/ray:{version('ray')}-py311-gpu"


def test_the_slurm_script_is_sound():
    subprocess.run(["bash", "-n", SLURM], check=True)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, SLURM], check=True)


STUBS = {
    "scontrol": 'printf "%s\\n" node1 node2 node3',
    # What runs where, and with which address, one line each; then the command itself.
    "srun": """
echo "$RAY_ADDRESS srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
exec "$@" """,
    "hostname": "echo fe80::1 10.0.0.7 192.168.1.7",
    "ray": """
case "$1" in
    health-check)
        echo x >>"$CALLS.checks"
        [[ $(wc -l <"$CALLS.checks") -ge ${HEALTHY_AFTER:-2} ]] ;;
    start)
        trap 'echo "stopped $*" >>"$CALLS"; kill $!; exit 0' TERM
        sleep 60 >/dev/null 2>&1 &  # who waits for this job's output does not wait for it
        echo x >>"$CALLS.up"
        wait ;;
esac""",
    "fedsim": """
trap 'echo "round finished" >>"$CALLS"; exit 130' TERM
# No stand-in of a node is stopped before it can say so.
until [[ $(cat "$CALLS.up" 2>/dev/null | wc -l) -ge 3 ]]; do sleep 0.05; done
echo started >"$CALLS.started"
for _ in $(seq "${RUN_FOR:-0}"); do sleep 0.1; done
exit "${RUN_STATUS:-0}" """,
}


@pytest.fixture
def slurm(tmp_path):
    """Return how to start the script where Slurm, Ray and fedsim are stand-ins that note calls."""
    for name, body in STUBS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def start(*arguments, **env):
        known = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_PER_TASK": "a100:2",
        }
        return subprocess.Popen(
            ["bash", SLURM, *arguments], env=known | env, stderr=subprocess.PIPE, text=True
        )

    start.calls = tmp_path / "calls"
    return start


def ended(job):
    """Wait for a job; return its exit code and what it said on stderr."""
    _, said = job.communicate(timeout=120)
    return job.returncode, said


def test_a_slurm_job_starts_ray_on_every_node_then_the_run_and_stops_all(slurm):
    job = slurm("experiment.toml", "rounds.count=3")
    assert ended(job) == (0, "")
    calls = slurm.calls.read_text().splitlines()
    on = "--overlap --nodes=1 --ntasks=1 --nodelist="
    own = "--num-cpus=16 --num-gpus=2 --temp-dir=/tmp/fedsim-ray-4711 --block"
    address = "10.0.0.7:24711"
    head = "--head --node-ip-address=10.0.0.7 --port=24711 --include-dashboard=false"
    assert f"{address} srun {on}node1 ray start {head} --disable-usage-stats {own}" in calls
    for node in ("node2", "node3"):
        assert f"{address} srun {on}{node} ray start --address={address} {own}" in calls
    run = f"{address} srun {on}node1 fedsim run experiment.toml rounds.count=3"
    assert run in calls
    checks = [line for line in calls if "health-check" in line]
    assert len(checks) == 2
    assert calls.index(checks[-1]) < calls.index(run)
    assert len([line for line in calls if line.startswith("stopped start")]) == 3


def test_the_exit_code_of_a_slurm_job_is_that_of_the_run(slurm):
    assert ended(slurm("experiment.toml", RUN_STATUS="4")) == (4, "")


def test_before_the_time_of_a_slurm_job_is_up_the_run_finishes_its_round(slurm):
    job = slurm("experiment.toml", RUN_FOR="600")
    started = Path(f"{slurm.calls}.started")
    while not started.exists():
        assert job.poll() is None
    job.terminate()
    assert ended(job)[0] == 130
    lines = slurm.calls.read_text().splitlines()
    stopped = [place for place, line in enumerate(lines) if line.startswith("stopped start")]
    assert len(stopped) == 3
    assert lines.index("round finished") < min(stopped)


def test_a_head_that_does_not_start_ends_the_slurm_job_with_the_reason(slurm):
    status, said = ended(slurm("experiment.toml", HEALTHY_AFTER="99", FEDSIM_RAY_WAIT_S="0"))
    assert (status, said) == (3, "Ray's head did not start on node1 within 0 s\n")
    assert "fedsim run" not in slurm.calls.read_text()


def test_a_slurm_job_without_experiment_says_how_it_is_used(slurm):
    status, said = ended(slurm())
    assert status == 2
    assert said == f"usage: sbatch {SLURM} EXPERIMENT [key=value ...]\n"
