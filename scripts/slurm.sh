#!/bin/bash
# The five stages as jobs of SLURM, each of which waits for the one before it; recording is an array of jobs.
#
#     NAME=carracing RANKS=4 VAE_OPTIONS="--gres=gpu:4" MDRNN_OPTIONS="--gres=gpu:4" bash scripts/slurm.sh
#
# scripts/stages.sh has what may be set in the environment, and beside that
#
#     OPTIONS                    more options of sbatch, for all stages: --partition=..., --time=..., --account=...
#     RECORD_OPTIONS, VAE_OPTIONS, MDRNN_OPTIONS, CONTROL_OPTIONS, TEST_OPTIONS    ... for one
#     FROM                       the stage to begin with, where those before it are done: one of them is asked for again
#
# Two minutes before a job's time is over SLURM sends SIGUSR1. The command then keeps what there is of its work and ends
# with status 138, and the job asks to be queued again; where clusters cancel jobs instead, the next of TRIES jobs goes on.
# A stage that is done already ends at once. The same command line goes on after anything else, too.
set -euo pipefail
[ $# = 0 ] && HERE=$(cd "$(dirname "$0")/.." && pwd) && export HERE
source "$HERE/scripts/stages.sh"

submit() {
    local stage done= before own job try
    mkdir -p "$LOGDIR/jobs"
    : >"$LOGDIR/jobs/slurm"
    for stage in $STAGES; do
        [[ -n ${FROM-} && $stage != "$FROM" ]] && continue
        FROM=
        own=${stage^^}_OPTIONS before=$done
        for ((try = 1; try <= TRIES; try++)); do
            job=$(sbatch --parsable --job-name="$NAME-$stage" --signal=USR1@120 --requeue --open-mode=append \
                --kill-on-invalid-dep=yes --output="$LOGDIR/jobs/$stage-$([ $stage = record ] && echo %A-%a || echo %j).log" \
                $([ $stage = record ] && echo --array=0-$((PARTS - 1))) \
                $([ $stage = vae -o $stage = mdrnn ] && echo --nodes=$NODES --ntasks-per-node=1) \
                $([ -n "$before" ] && echo --dependency=$before) \
                ${OPTIONS-} ${!own-} "$HERE/scripts/slurm.sh" "$stage")
            job=${job%%;*}  # the name of a cluster comes after it
            echo "$job" >>"$LOGDIR/jobs/slurm"
            before=${done:+$done,}afterany:$job
        done
        done=afterok:$job
        echo "$stage: job $job"
    done
    echo "to end all: scancel \$(cat $LOGDIR/jobs/slurm); what they say: $LOGDIR/jobs"
}

# The job of a stage. Everything goes through srun, which is what --signal sends signals to.
job() {
    local words launcher=() through=() status=0 head=
    cd "$SLURM_SUBMIT_DIR"
    stage "$1" "${SLURM_ARRAY_TASK_ID:-0}"
    if in_ranks "$1"; then
        ((NODES > 1)) && head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        torchrun "$head"
        through=(bash "$HERE/scripts/slurm.sh" ranks)
    fi
    echo "$ $PYTHON ${launcher[*]} ${words[*]}"
    trap : TERM USR1 # the command hears them, and this waits for it
    srun --kill-on-bad-exit=1 "${through[@]}" "$PYTHON" "${launcher[@]}" "${words[@]}" &
    wait_for $! || status=$?
    if wanted_back $status; then queue_again; fi
    exit $status
}

# What srun starts where there are ranks: torchrun, which has one status for whatever ends them, and 138 or 143 where
# that was a signal; it came to both.
ranks() {
    local asked=0 status=0
    trap 'asked=138' USR1
    trap 'asked=143' TERM
    "$@" &
    wait_for $! || status=$?
    ((status && asked)) && exit $asked
    exit $status
}

case ${1-} in
'') submit ;;
ranks) "$@" ;;
*) job "$1" ;;
esac
