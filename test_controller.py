"""Stage 5: drive the real simulator, or the dream, and report the score; or watch; or drive yourself.

Reads   exp_dir/vae, exp_dir/mdrnn, and exp_dir/ctrl, exp_dir/bc or another controller; or those of a run that came
        with dreamdrive, by its name: its scores then go to exp_dir/<name>/scores
Writes  exp_dir/scores/<controller>-<env>-<simulator|dream>.json    mean, std, min, median, max, episodes, returns by
                                                                    seed, versions, command, checkpoints
        exp_dir/scores/<controller>-<env>-<trial>-simulator.json    the same, with --perturb or --obs-noise
        exp_dir/scores/<the same>/metrics.csv                       a row a score, with --track
        a video, with --record; with --record worst several, exp_dir/scores/...-worst-1.mp4

    python test_controller.py --logdir exp_dir --controller ctrl --episodes 100
    python test_controller.py --logdir exp_dir --controller bc --render
    python test_controller.py --logdir exp_dir --controller bc-dagger
    python test_controller.py --logdir carracing
    python test_controller.py --logdir carracing --perturb bars

--render opens the window of play.py (no score is written): what the simulator shows, what V makes of it, what M
expected. Keys: space pause, S single step, R reset, Q quit; with --controller human the arrows drive. Without a display
the window is on a VNC desktop of its own, and a line says how to look at it; --record needs none.
"""

from dataclasses import replace
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.driving.catalogue import PLAN, require_controller, usual_controller
from dreamdrive.driving.scoring_settings import WORST, EvaluationSettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.script import run
from dreamdrive.utils.stages import is_controller


def parse_args(argv: list[str] | None = None) -> EvaluationSettings:
    """The settings of a command line; the driver is found in --logdir where it is not said."""
    args = EvaluationSettings.parse(argv, __doc__)
    if args.controller is None:
        args = replace(args, controller=usual_controller(args.logdir))
    args.check()
    return args


def require_run(args: EvaluationSettings) -> None:
    """UserError where what is to drive has not been trained: it names the first stage that is missing."""
    if args.controller and is_controller(args.controller):
        require_controller(args.logdir, args.controller)
    elif args.controller == PLAN or args.world == "dream":
        checkpoint.require(args.logdir, "vae", "mdrnn")


def main() -> None:
    args = parse_args()
    require_run(args)
    # these bring torch, after what was wrong has been told
    from dreamdrive.driving.scoring import cast_of, drive_for_score, shown, with_episodes_there_are
    from dreamdrive.playing.shown import record, record_worst, show_of, watch

    who = cast_of(args)
    args = with_episodes_there_are(args, who)
    if args.render:
        watch(args, show_of(args, who))
        return
    of_worst = args.record == Path(WORST)
    with shown(args, who):
        if args.record and not of_worst:  # first: one that cannot be written is known before the score takes its time
            record(args.record, show_of(args, who))
        episodes = drive_for_score(args, who)
        if of_worst:
            record_worst(args, who, episodes)


if __name__ == "__main__":
    run(main)
