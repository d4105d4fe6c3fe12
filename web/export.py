"""The dream of a run as one page that drives in any browser: V's decoder, M and the head in half precision inside it.

Reads   <logdir>/vae/best.tar, <logdir>/mdrnn/best.tar, and best.tar of a controller
Writes  --out, which asks nothing of any other place: open it as a file, or put it on any web server

    dreamdrive export web --logdir carracing --out dream.html
    python -m dreamdrive.web.export --logdir exp_dir --controller bc --out dream.html

What can be put into a page: V of every kind; M of kind lstm-mixture, lstm-mixture-ensemble or lstm-once; heads that
see z, or z and h.
"""

from dataclasses import replace

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.driving.catalogue import check_driver, usual_controller
from dreamdrive.utils import stages
from dreamdrive.utils.script import run
from dreamdrive.web.settings import NOBODY, WebSettings


def parse_args(argv: list[str] | None = None) -> WebSettings:
    """The settings of a command line; the agent is found in --logdir where it is not said."""
    args = WebSettings.parse(argv, __doc__)
    if args.controller is None:
        there = stages.controllers(args.logdir)
        args = replace(args, controller=usual_controller(args.logdir) if there else NOBODY)
    else:
        check_driver(args.controller, args.logdir, (NOBODY,))
    return args


def main() -> None:
    args = parse_args()
    from dreamdrive.web.dream_page import write  # brings torch, after what was wrong has been told

    size = write(args)
    agent = "without an agent" if args.controller == NOBODY else f"with the agent in {args.controller}"
    print(f"{args.out}: the dream of {args.logdir}, {agent}, {size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    run(main)
