"""Stage 3: train M, the MDN-RNN, on latents of the frozen V.

Reads   exp_dir/vae/best.tar          written by trainvae.py
        exp_dir/latents/              cached posterior of every frame; made here where it is missing or stale
Writes  exp_dir/mdrnn/best.tar        lowest validation loss; also holds the latents dreams start from
        exp_dir/mdrnn/checkpoint.tar  to resume from: run the same command again
        exp_dir/mdrnn/metrics.csv, loss.png, dreams/epoch_NNN.png, args.json

    python trainmdrnn.py --logdir exp_dir --epochs 30
"""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.manifest import require_datasets
from dreamdrive.learning.memory_settings import SIMULATOR, MDRNNSettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import next_command


def main() -> None:
    args = MDRNNSettings.parse(None, __doc__)
    args.with_preset().check()
    checkpoint.require(args.logdir, "vae")
    require_datasets(args.dataset or ())
    checkpoint.require_free(args.logdir, "mdrnn")
    from dreamdrive.learning.memory import train_memory  # brings torch, after what was wrong has been told

    best, has_expert = train_memory(args)
    learnt = "the simulator itself" if args.core == SIMULATOR else f"validation loss {best:.4f}"
    scripts = ["traincontroller.py", *(["trainbc.py"] if has_expert else [])]
    following = ", or ".join(next_command(script, "--logdir", args.logdir) for script in scripts)
    print(f"{checkpoint.path(args.logdir, 'mdrnn')}: {learnt}; next: {following}")


if __name__ == "__main__":
    run(main, in_ranks=True)
