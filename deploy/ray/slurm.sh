#!/usr/bin/env bash
# A run of fedsim on a Ray cluster of its own, inside one Slurm job:
#
#   sbatch deploy/ray/slurm.sh experiment.toml rounds.count=100
#
# What follows the script's name is handed to `fedsim run`. Change the lines below to what your site
# has, or say it to sbatch (--nodes=8 --gpus-per-task=4), which goes before them. Without GPUs leave
# --gpus-per-task out. fedsim has to be on PATH on all nodes: a virtual environment on a shared file
# system, activated before sbatch, is.
#SBATCH --job-name=fedsim
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@120 # two minutes before the time is up: the run ends its round, resumable
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch $0 EXPERIMENT [key=value ...]" >&2
    exit 2
fi

export RAY_USAGE_STATS_ENABLED=0
wait_s=${FEDSIM_RAY_WAIT_S:-300}
cpus=${SLURM_CPUS_PER_TASK:-1}
# Slurm says 2 or, with a type, a100:2.
gpus=${SLURM_GPUS_PER_TASK:-0}
gpus=${gpus##*:}
# Several jobs may share a node: ports, and Ray's folder, are the job's own.
port=$((20000 + SLURM_JOB_ID % 20000))
folder=/tmp/fedsim-ray-$SLURM_JOB_ID

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
# The first address that is no IPv6: Ray listens on one.
address=$("${on_head[@]}" hostname --ip-address | tr ' ' '\n' | grep -m 1 -v :)
export RAY_ADDRESS=$address:$port

steps=()
run=""
# shellcheck disable=SC2329 # the trap calls it
end() {
    trap - EXIT
    for step in "${steps[@]}"; do kill "$step" 2>/dev/null || true; done
    wait || true
}
trap end EXIT
# Slurm tells the script, not the run: pass it on, and wait for it to finish its round.
trap '[[ -z $run ]] || kill -TERM "$run"' TERM

common=(--num-cpus="$cpus" --num-gpus="$gpus" --temp-dir="$folder" --block)
"${on_head[@]}" ray start --head --node-ip-address="$address" --port="$port" \
    --include-dashboard=false --disable-usage-stats "${common[@]}" &
steps+=($!)

deadline=$((SECONDS + wait_s))
until "${on_head[@]}" ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
        echo "Ray's head did not start on $head within $wait_s s" >&2
        exit 3
    fi
    sleep 2
done

# Nodes that are slow to start are used from when they join.
for node in "${nodes[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" \
        ray start --address="$RAY_ADDRESS" "${common[@]}" &
    steps+=($!)
done

"${on_head[@]}" fedsim run "$@" &
run=$!
status=0
wait "$run" || status=$?
# A signal ends the first wait, not the run.
while kill -0 "$run" 2>/dev/null; do
    status=0
    wait "$run" || status=$?
done
exit "$status"
