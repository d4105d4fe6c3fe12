#!/bin/bash
# One command with workers on several nodes of SLURM: a job that starts Ray on them, and on the first of them the command,
# with --ray.
#
#     NODES=4 OPTIONS="--cpus-per-task=32" bash scripts/ray_slurm.sh data/generation_script.py --rollouts 10000 --rootdir datasets/carracing
#
# What may be set in the environment:
#
#     NODES      machines; no disk of theirs is shared but for the folder that this is called in    (2)
#     OPTIONS    more options of sbatch: --cpus-per-task=..., --partition=..., --time=..., --account=...
#     TRIES      jobs, each beginning when the one before it has ended, as in scripts/slurm.sh    (3)
#     NAME       of the jobs, and of the folder in exp_dir/ for what they say    (that of the command)
#     PYTHON     which has dreamdrive and Ray on every node    (python)
#
# Two minutes before a job's time is over SLURM sends SIGUSR1: see scripts/slurm.sh. Ray itself is deaf to it.
set -euo pipefail
[ "${1-}" != job ] && HERE=$(cd "$(dirname "$0")/.." && pwd) && export HERE
NODES=${NODES:-2} NAME=${NAME:-$(basename "${1-}" .py)}
source "$HERE/scripts/stages.sh"

submit() {
    local job before= try jobs
    (($#)) || { echo "error: give a command, e.g. bash scripts/ray_slurm.sh test_controller.py --logdir carracing" >&2; exit 2; }
    jobs=exp_dir/$NAME/jobs
    mkdir -p "$jobs"
    : >"$jobs/ray"
    for ((try = 1; try <= TRIES; try++)); do
        job=$(sbatch --parsable --job-name="$NAME" --signal=USR1@120 --requeue --open-mode=append \
            --kill-on-invalid-dep=yes --output="$jobs/%j.log" --nodes="$NODES" --ntasks-per-node=1 \
            $([ -n "$before" ] && echo --dependency=$before) ${OPTIONS-} "$HERE/scripts/ray_slurm.sh" job "$@")
        job=${job%%;*} # the name of a cluster comes after it
        echo "$job" >>"$jobs/ray"
        before=${before:+$before,}afterany:$job
    done
    echo "to end all: scancel \$(cat $jobs/ray); what they say: $jobs"
}

# on HOST COUNT WORDS: become a step there, beside the others
on() { exec srun --overlap --nodes="$2" --ntasks="$2" --nodelist="$1" "${@:3}"; }

job() {
    local hosts place port status=0 started=() words cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
    cd "$SLURM_SUBMIT_DIR"
    hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
    place=$(on "${hosts[0]}" 1 hostname --ip-address) && place=${place%% *}
    port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    words=(bash -c 'trap "" USR1; exec "$@"' ray "$(dirname "$(command -v "$PYTHON")")/ray" start --block
        --num-cpus="$cores" --disable-usage-stats)
    on "${hosts[0]}" 1 "${words[@]}" --head --node-ip-address="$place" --port="$port" --include-dashboard=false &
    started+=($!)
    answers "$place" "$port" || { echo "error: Ray did not start on ${hosts[0]}" >&2; exit 1; }
    if ((${#hosts[@]} > 1)); then
        on "$(IFS=,; echo "${hosts[*]:1}")" $((${#hosts[@]} - 1)) "${words[@]}" --address="$place:$port" &
        started+=($!)
    fi
    words=("$HERE/$1" "${@:2}" --ray "$place:$port")
    echo "$ $PYTHON ${words[*]}"
    trap : TERM USR1 # the command hears them, and this waits for it
    on "${hosts[0]}" 1 "$PYTHON" "${words[@]}" &
    wait_for $! || status=$?
    kill "${started[@]}" 2>/dev/null || true
    if wanted_back $status; then queue_again; fi
    exit $status
}

# answers HOST PORT: whether it does within a minute
answers() {
    local second
    for ((second = 0; second < 60; second++)); do
        (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null && return
        sleep 1
    done
    return 1
}

if [ "${1-}" = job ]; then "$@"; else submit "$@"; fi
