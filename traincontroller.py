"""Stage 4a: train C, the controller: evolve it by CMA-ES in the dream or in the simulator, or with --method
actor-critic let it learn by gradients through short dreams.

Reads   exp_dir/vae/best.tar, exp_dir/mdrnn/best.tar
        exp_dir/bc/best.tar           with --init, to begin from a clone
        exp_dir/latents/              by actor-critic: dreams begin from any recorded moment
Writes  exp_dir/ctrl/best.tar         what drove the simulator best: of the search its mean (without --evaluate-every:
                                      whose score on fresh starts was highest), of actor-critic the actor
                                      (without: the last)
        exp_dir/ctrl/checkpoint.tar   to resume from: run the same command again
        exp_dir/ctrl/metrics.csv, fitness.png, args.json, clock.csv (seconds a generation took)
        with --name NAME all of it in exp_dir/ctrl-NAME, beside other controllers

    python traincontroller.py --logdir exp_dir --world dream --pop-size 64 --n-samples 16 --generations 100
    python traincontroller.py --logdir exp_dir --method actor-critic --updates 4000

--method is cma unless given; `traincontroller.py --method actor-critic --help` says what that takes.

A dream can be gamed (Ha & Schmidhuber 2018, section 4.5), so a controller evolved in it is chosen by how it drives in
reality, on seeds kept for choosing; the search itself learns nothing from that.
"""

import sys

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.evolution_settings import EvolutionSettings
from dreamdrive.utils import checkpoint
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import Parser, Training, next_command, refuse_others

METHODS: dict[str, type[Training]] = {"cma": EvolutionSettings, "actor-critic": ActorSettings}


def parse_args(argv: list[str] | None = None) -> EvolutionSettings | ActorSettings:
    """The settings of a command line, of the kind that --method names."""
    p = Parser(add_help=False, allow_abbrev=False)
    p.add_argument("--method", choices=tuple(METHODS), default="cma")
    found, words = p.parse_known_args(sys.argv[1:] if argv is None else argv)
    refuse_others(found.method, words, METHODS, {name: f"--method {name}" for name in METHODS})
    args = METHODS[found.method].parse(words, __doc__)
    assert isinstance(args, EvolutionSettings | ActorSettings), "METHODS has no others"
    return args


def main() -> None:
    args = parse_args()
    args.check()
    checkpoint.require(args.logdir, "vae", "mdrnn")
    if args.init:
        checkpoint.require_file(args.init, "bc")
    checkpoint.require_free(args.logdir, args.stage)
    from dreamdrive.learning.control import train_actor, train_by_search  # bring torch, after what was wrong was told

    best, best_in = train_actor(args) if isinstance(args, ActorSettings) else train_by_search(args)
    print(
        f"{checkpoint.path(args.logdir, args.stage)}: {best:.1f} in the {best_in}; next: "
        f"{next_command('test_controller.py', '--logdir', args.logdir, '--controller', args.stage)}"
    )


if __name__ == "__main__":
    run(main)
