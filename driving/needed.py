"""Which of this machine's files workers on other machines read: those of a run, and folders of scenes."""

from collections.abc import Sequence
from pathlib import Path

from dreamdrive.envs.catalogue import options_of
from dreamdrive.utils import runs, stages
from dreamdrive.utils.cluster import Read


def needed(
    env: str, options: dict, logdir: Path | None, controllers: Sequence[str] = (), name: str = stages.BEST
) -> tuple[Read, ...]:
    """V and M of the run in `logdir`, its controllers as they are in the file `name`, and the folders that `options` of
    the world say."""
    found = []
    if logdir is not None:
        run = runs.find(logdir)
        files = [Path(stage, stages.BEST) for stage in ("vae", "mdrnn")] + [Path(stage, name) for stage in controllers]
        found.append(Read(logdir, run, tuple(file for file in files if (run / file).is_file())))
    for option in options_of(env):
        if option.type is Path and (place := options.get(option.name)) is not None:
            files = sorted(path for path in Path(place).glob("*.json") if not path.name.startswith("."))
            found.append(Read(place, Path(place), tuple(Path(path.name) for path in files)))
    return tuple(found)
