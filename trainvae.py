"""Stage 2: train V, the VAE that turns a frame into Z numbers.

Reads   datasets/<name>/             written by data/generation_script.py; one folder or several of the same environment
Writes  exp_dir/vae/best.tar         lowest validation loss, for the next stages
        exp_dir/vae/checkpoint.tar   to resume from: run the same command again
        exp_dir/vae/metrics.csv, loss.png, samples/epoch_NNN.png, args.json
        exp_dir/vae/lost.png         of what changes from a step to the next, what V loses most
        exp_dir/media/reconstructions/held-out.mp4    an episode it was not trained on, and what V makes of it
        exp_dir/latents/             posterior of every frame of the datasets

    python trainvae.py --dataset datasets/carracing --epochs 20

With --augment the frames that V is trained on are changed at random, and it is to reconstruct those that they were
(learning/augmentation.py); validation and cached latents are of frames as they are.
"""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.data.manifest import require_datasets
from dreamdrive.learning.vision_settings import VAESettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import next_command


def main() -> None:
    args = VAESettings.parse(None, __doc__)
    args.check()
    require_datasets(args.dataset)
    checkpoint.require_free(args.logdir, "vae")
    from dreamdrive.learning.vision import train_vision  # brings torch, after what was wrong has been told

    best = train_vision(args)
    print(
        f"{checkpoint.path(args.logdir, 'vae')}: epoch {best['epoch']}, validation loss {best['best']:.2f}; next: "
        f"{next_command('trainmdrnn.py', '--logdir', args.logdir)}"
    )


if __name__ == "__main__":
    run(main, in_ranks=True)
