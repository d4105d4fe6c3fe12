"""All stages in rounds: the driver's own episodes become data, V and M learn from all of it, and the actor learns on in
the dream (the iterative procedure of Ha & Schmidhuber 2018, section 5, with the actor-critic of stage 4a).

    round 0     random episodes; V, M and the actor begin
    round 1 ..  the actor of the round before drives, undisturbed and disturbed; M and the actor learn on
    at the end  M and the actor settle on the same episodes, at falling learning rates; that actor, the last round's
                and those that drove best when they recorded drive tracks for choosing between them

Writes  exp_dir/rounds/<NN>/            the round's datasets, and vae, mdrnn and ctrl as they were after it: a run
        exp_dir/rounds/<NN>.json        what the round did: settings, frames, scores, digests
        exp_dir/rounds/settled/         the run after that
        exp_dir/rounds/best/            the run whose driver was chosen
        exp_dir/rounds/chosen.json      how
        exp_dir/vae, mdrnn, ctrl        as after the last round
        exp_dir/rounds/curve.png        scores against frames

    python train.py --env carracing --repeat 4 --rounds 20 --logdir exp_dir/rounds-0

Run again it resumes, wherever it was stopped; a larger --rounds adds rounds.
"""

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.utils import runs
from dreamdrive.utils.locks import require_free, workplace
from dreamdrive.utils.script import run


def main() -> None:
    args = RoundsSettings.parse(None, __doc__)
    args.check()
    runs.require_own(args.logdir)
    folder, busy = args.logdir / "rounds", f"another train.py is at work in {args.logdir}: wait for it"
    require_free(folder, busy)
    from dreamdrive.learning.rounds import Rounds  # brings torch, after what was wrong has been told

    with workplace(folder, busy):
        Rounds(args).run()


if __name__ == "__main__":
    run(main)
