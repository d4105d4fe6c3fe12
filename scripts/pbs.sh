#!/bin/bash
# The five stages as jobs of PBS (OpenPBS, PBS Professional), each of which waits for the one before it; recording is an
# array of jobs.
#
#     NAME=carracing RANKS=4 VAE_OPTIONS="-l select=1:ncpus=8:ngpus=4" bash scripts/pbs.sh
#
# scripts/stages.sh has what may be set in the environment, and beside that
#
#     OPTIONS                    more options of qsub, for all stages: -q ..., -l walltime=..., -P ...
#     RECORD_OPTIONS, VAE_OPTIONS, MDRNN_OPTIONS, CONTROL_OPTIONS, TEST_OPTIONS    ... for one
#     FROM                       the stage to begin with, where those before it are done
#
# PBS sends SIGTERM when a job's time is over, or its machine is wanted back, and ends it kill_delay (10) seconds later.
# The command keeps what there is of its work by then; the next of TRIES jobs goes on, or the same one where PBS runs it
# again. A stage that is done already ends at once. The same command line goes on after anything else, too.
set -euo pipefail
[ -z "${STAGE-}" ] && HERE=$(cd "$(dirname "$0")/.." && pwd) && export HERE
source "$HERE/scripts/stages.sh"

submit() {
    ((NODES == 1)) || { echo "error: NODES is $NODES, and this script trains on one machine: set RANKS" >&2; exit 2; }
    local stage done= before own job try
    mkdir -p "$LOGDIR/jobs"
    : >"$LOGDIR/jobs/pbs"
    for stage in $STAGES; do
        [[ -n ${FROM-} && $stage != "$FROM" ]] && continue
        FROM=
        own=${stage^^}_OPTIONS before=$done
        for ((try = 1; try <= TRIES; try++)); do
            job=$(STAGE=$stage qsub -V -r y -j oe -N "$NAME-$stage" -o "$LOGDIR/jobs" \
                $([ $stage = record ] && ((PARTS > 1)) && echo -J 0-$((PARTS - 1))) \
                $([ -n "$before" ] && echo -W depend=$before) \
                ${OPTIONS-} ${!own-} "$HERE/scripts/pbs.sh")
            echo "$job" >>"$LOGDIR/jobs/pbs"
            before=${done:+$done,}afterany:$job
        done
        done=afterok:$job
        echo "$stage: job $job"
    done
    echo "to end all: qdel \$(cat $LOGDIR/jobs/pbs); what they say: $LOGDIR/jobs"
}

# The job of a stage, $STAGE.
job() {
    local words launcher=()
    cd "$PBS_O_WORKDIR"
    stage "$STAGE" "${PBS_ARRAY_INDEX:-0}"
    if in_ranks "$STAGE"; then torchrun localhost; fi
    echo "$ $PYTHON ${launcher[*]} ${words[*]}"
    exec "$PYTHON" "${launcher[@]}" "${words[@]}"
}

if [ -z "${STAGE-}" ]; then submit; else job; fi
