"""What stage 5 drives, looked at in a window or recorded as a video."""

from pathlib import Path

from dreamdrive.driving.cast import Cast
from dreamdrive.driving.evaluation import Driven
from dreamdrive.driving.scoring import FILMS, films, worst
from dreamdrive.driving.scoring_settings import EvaluationSettings
from dreamdrive.playing.drive import Drive, dream_of, make_drive, simulator_of
from dreamdrive.playing.recording import RECORDINGS
from dreamdrive.playing.screen import Window
from dreamdrive.playing.session import Session
from dreamdrive.utils import runs
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.video import VideoWriter, side_by_side, with_lines


def show_of(args: EvaluationSettings, who: Cast) -> Drive:
    """The episodes that are scored, to be looked at."""
    assert args.controller, "parse_args has chosen one"
    seeds = evaluation_seeds(args.seed, args.episodes)
    world = dream_of(args.logdir, args.temperature, args.horizon) if args.world == "dream" else simulator_of(who)
    return make_drive(world, who, args.controller, seeds.__getitem__, len(seeds))


def watch(args: EvaluationSettings, show: Drive) -> None:
    """Episodes in a window, one a seed, until the last or until the window is closed."""
    title = f"dreamdrive: {args.controller} in the {args.world}"
    with Window(title, show.panels, show.keys, show.SOUGHT) as window:
        Session(show, window, recordings=runs.results(args.logdir) / RECORDINGS).run()


def record(path: Path, show: Drive, number: int = 0) -> None:
    """An episode, by default the first, as a video."""
    show.begin(number)
    with (
        VideoWriter(path, 1 / show.dt) as video,
        Bar(total=show.world.spec.max_steps, desc=f"recording {path}", unit="frame") as bar,
    ):
        while True:
            line = f"{show.driver}   step {show.steps}   return {show.total:.1f}"
            video.add(with_lines(side_by_side(show.images(), show.panels), [line]))
            if show.over:
                break
            show.step(set())
            bar.update(1)
    print(f"{path}: {show.result()}")


def record_worst(args: EvaluationSettings, who: Cast, episodes: list[Driven]) -> None:
    """The episodes that went worst as videos beside the score."""
    for path, number in zip(films(args, who), worst(episodes, FILMS), strict=False):  # there may be fewer episodes
        record(path, show_of(args, who), number)
