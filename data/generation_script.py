"""Stage 1: record episodes of a world as a dataset.

Writes  datasets/<name>/manifest.json       what was recorded, and the split into training and validation
        datasets/<name>/shard_00000.h5 ...  the episodes (format: data/shard_layout.py)
        datasets/<name>/args.json           the command
Reads   exp_dir/                            a trained run, where --policy has a controller or a clone in it

    python data/generation_script.py --env carracing --rollouts 1000 --rootdir datasets/carracing --threads 8

Episode i depends on --seed and i alone: the same command gives the same bytes with any --threads, also after it was
killed and run again. Run again with a larger --rollouts, it adds episodes to those that are there.
"""

import sys
from collections.abc import Callable

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive import envs
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import World
from dreamdrive.envs.catalogue import module_of
from dreamdrive.utils import modules
from dreamdrive.utils.locks import require_free
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import next_command


def main(argv: list[str] | None = None, make_world: Callable[..., World] = envs.make) -> None:
    args = RecordingSettings.parse(argv, __doc__)
    if not args.given and not args.options:
        print(f"{args.plan()}; --help lists what else is possible", file=sys.stderr)
        sys.exit(2)
    args.check()
    if make_world is envs.make:
        args.check_world(args.env)
    require_free(args.rootdir, args.busy())
    if args.was_given("env") and (module := module_of(args.env)) and modules.remember(module):
        print(f"the module {module} is allowed on this machine from now on: later stages import it without --env, too")
    from dreamdrive.data import shards  # these bring torch, after what was wrong has been told
    from dreamdrive.driving.recording import generate

    manifest = generate(args, make_world)
    print(shards.summary(manifest, args.rootdir))
    script = "trainvae.py" if len(manifest.image_shape) == 3 else "trainbc.py" if "expert" in manifest.policies else ""
    if script and any(e.split == "val" for e in manifest.episodes):
        print(f"  next: {next_command(script, '--dataset', args.rootdir)}")


if __name__ == "__main__":
    run(main)
