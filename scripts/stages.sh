# Sourced by scripts/slurm.sh, scripts/pbs.sh and scripts/ray_slurm.sh: what is run, and what each of its jobs does. All of it may be set in
# the environment; paths are relative to the folder that the script is called in, which all machines see.
NAME=${NAME:-carracing}                      # of the run, and of its jobs
DATA=${DATA:-datasets/$NAME}                 # DATA-0, DATA-1, ... are recorded
LOGDIR=${LOGDIR:-exp_dir/$NAME}
PARTS=${PARTS:-4}                            # jobs that record, each a dataset of its own
ROLLOUTS=${ROLLOUTS:-50}                     # episodes of each
RECORD=${RECORD-"--env carracing-fast --policy expert=0.7,brown=0.3 --action-noise 0.6"}
VAE=${VAE-}                                  # more flags of trainvae.py ...
MDRNN=${MDRNN-}                              # ... of trainmdrnn.py ...
LEARNER=${LEARNER:-trainbc.py}               # or traincontroller.py
CONTROL=${CONTROL-}                          # ... of that ...
TEST=${TEST-"--episodes 100"}                # ... and of test_controller.py
NODES=${NODES:-1}                            # machines that train V, and M
RANKS=${RANKS:-1}                            # GPUs, or ranks on cores, of each of them
TRIES=${TRIES:-3}                            # jobs of a stage, each beginning when the one before it has ended
PYTHON=${PYTHON:-python}
HERE=${HERE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
export NAME DATA LOGDIR PARTS ROLLOUTS RECORD VAE MDRNN LEARNER CONTROL TEST NODES RANKS TRIES PYTHON HERE

STAGES="record vae mdrnn control test"

# parts: the datasets
parts() { local part; for ((part = 0; part < PARTS; part++)); do printf '%s ' "$DATA-$part"; done; }

# stage NAME PART: the words of a stage's command into `words`; PART is of `record`
stage() {
    local driver=bc
    [ "$LEARNER" = traincontroller.py ] && driver=ctrl
    case $1 in
    record) words=(data/generation_script.py --rootdir "$DATA-$2" --rollouts "$ROLLOUTS" --skip $((ROLLOUTS * $2)) $RECORD) ;;
    vae) words=(trainvae.py --dataset $(parts) --logdir "$LOGDIR" $VAE) ;;
    mdrnn) words=(trainmdrnn.py --logdir "$LOGDIR" $MDRNN) ;;
    control) words=("$LEARNER" --logdir "$LOGDIR" $CONTROL) ;;
    test) words=(test_controller.py --logdir "$LOGDIR" --controller "$driver" $TEST) ;;
    *) echo "error: there is no stage $1, but $STAGES" >&2; exit 2 ;;
    esac
    words[0]=$HERE/${words[0]}
}

# in_ranks STAGE: whether several ranks train it
in_ranks() { [[ $1 == vae || $1 == mdrnn ]] && ((NODES * RANKS > 1)); }

# torchrun HEAD: its words into `launcher`, for ranks on machines that meet at HEAD
torchrun() {
    launcher=(-m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$RANKS" --max-restarts 0
        --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGUSR1)
    if ((NODES > 1)); then
        launcher+=(--rdzv-backend c10d --rdzv-endpoint "$1:${RENDEZVOUS_PORT:-29577}" --rdzv-id "$NAME")
    else
        launcher+=(--rdzv-backend c10d --rdzv-endpoint localhost:0)
    fi
}

# wanted_back STATUS: whether a command ended because the machine was wanted back: HUP, TERM, USR1, and it goes on when
# it is run again
wanted_back() { [[ $1 == 129 || $1 == 143 || $1 == 138 ]]; }

# wait_for PROCESS: its status, however many signals come
wait_for() {
    local status
    while :; do
        status=0
        wait "$1" || status=$?
        kill -0 "$1" 2>/dev/null || return $status
    done
}

# queue_again: of a job of SLURM that goes on later
queue_again() {
    echo "the machine is wanted back: queued again"
    scontrol requeue "$SLURM_JOB_ID" || echo "SLURM does not queue it again: the next job of the stage goes on"
}
