"""Stage 5: drive the real simulator, or the dream, and report the score; or watch; or drive yourself.

Reads   exp_dir/vae, exp_dir/mdrnn, and exp_dir/ctrl or exp_dir/bc; or those of a run that came with dreamdrive, by its
        name: its scores then go to exp_dir/<name>/scores
Writes  exp_dir/scores/<controller>-<env>-<simulator|dream>.json    mean, std, min, median, max, episodes, returns by
                                                                    seed, versions, command, checkpoints
        exp_dir/scores/<controller>-<env>-<trial>-simulator.json    the same, with --perturb or --obs-noise
        a video, with --record

    python test_controller.py --logdir exp_dir --controller ctrl --episodes 100
    python test_controller.py --logdir exp_dir --controller bc --render
    python test_controller.py --logdir carracing
    python test_controller.py --logdir carracing --perturb bars

--render opens a window (no score is written): what the simulator shows, what V makes of it, what M expected.
Keys: space pause, S single step, R reset, Q quit; with --controller human left and right steer, up is gas, down brakes.
Without a screen the window is on a virtual one, and a line says where it can be seen; --record needs none.
"""

from dataclasses import replace

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.driving.catalogue import PLAN
from dreamdrive.driving.scoring_settings import TRAINED, EvaluationSettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.script import run


def parse_args(argv: list[str] | None = None) -> EvaluationSettings:
    """The settings of a command line; the driver is found in --logdir where it is not said."""
    args = EvaluationSettings.parse(argv, __doc__)
    if args.controller is None:
        evolved, cloned = (checkpoint.path(args.logdir, name).exists() for name in TRAINED)
        args = replace(args, controller="bc" if cloned and not evolved else "ctrl")
    args.check()
    return args


def require_run(args: EvaluationSettings) -> None:
    """UserError where what is to drive has not been trained: it names the first stage that is missing."""
    if args.controller in TRAINED:
        if not checkpoint.path(args.logdir, args.controller).exists():  # one that is there may do without V and M
            checkpoint.require(args.logdir, "vae", "mdrnn", args.controller)
    elif args.controller == PLAN or args.world == "dream":
        checkpoint.require(args.logdir, "vae", "mdrnn")


def main() -> None:
    args = parse_args()
    require_run(args)
    from dreamdrive.driving.scoring import drive_for_score  # brings torch, after what was wrong has been told

    drive_for_score(args)


if __name__ == "__main__":
    run(main)
