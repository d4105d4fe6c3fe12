"""Watch and play: a run's driver in the simulator, you or the driver in the dream, or episodes that were recorded; in a
window, or in a browser.

Reads   a run, as test_controller.py does, or one that came with dreamdrive, by its name; datasets, with -e
Writes  exp_dir/media/recordings/    films and arrays, with the key ","
        exp_dir/media/episodes/      datasets of what was driven, with -s

    python play.py --logdir carracing                   # its driver in the simulator
    python play.py --logdir carracing -r                # beside it what V makes of it, and what M expected
    python play.py --logdir carracing -w                # you drive in the dream, beside it the simulator
    python play.py --logdir carracing -a -H             # the driver in the dream, and what M says of it
    python play.py -e datasets/carracing                # recorded episodes
    python play.py --env carracing --controller human -s    # you drive, and may keep what you drove
    python play.py --logdir carracing -w --browser      # the same in a browser, also through SSH

In the window: Tab hands the controls to the next driver, you among them; space pauses, S takes a single step, R begins
the episode again, Page Down goes to the next, H says more, + and - change the speed, Q quits. Without a display the
window is on a VNC desktop of its own, and a line says how to look at it.
"""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.playing.settings import PlaySettings
from dreamdrive.utils.script import run


def parse_args(argv: list[str] | None = None) -> PlaySettings:
    args = PlaySettings.parse(argv, __doc__)
    args.check()
    return args


def main() -> None:
    args = parse_args()
    args.require()
    from dreamdrive.playing.start import play  # brings torch, after what was wrong has been told

    play(args)


if __name__ == "__main__":
    run(main)
