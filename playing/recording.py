"""What people keep of what they see: recordings to look at, and episodes to learn from.

exp_dir/media/recordings/<time>.mp4, <time>-frames.npy, -actions.npy, -rewards.npy    with the key ","
exp_dir/media/episodes/train, imagination                                             datasets, with play.py -s
"""

import io
import time
from pathlib import Path

import numpy as np

from dreamdrive.data.growing import Growing, manifest_of
from dreamdrive.driving.catalogue import HUMAN, PLAN, UNTRAINED
from dreamdrive.playing.drive import Drive
from dreamdrive.playing.show import Show
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.seeds import recording_seed
from dreamdrive.utils.stages import CONTROLLERS
from dreamdrive.utils.video import VideoWriter, side_by_side, with_lines

RECORDINGS = Path("media", "recordings")  # of a run
POLICIES = (*CONTROLLERS, PLAN, *UNTRAINED, HUMAN)  # who can drive what is kept, besides controllers with names


class Recording:
    """A film of what is seen, and what was seen and done as arrays: frames (N, H, W, C) or (N, S), and actions (N, A)
    or (N,) and rewards (N,) that led to them; of an episode's first frame, which none did, they are NaN, or -1 for a
    choice, and 0."""

    def __init__(self, folder: Path, show: Show) -> None:
        stem = time.strftime("%Y%m%d-%H%M%S")
        taken = len(list(make_folder(folder).glob(f"{stem}*.mp4")))
        self.path = folder / f"{stem}{f'-{taken + 1}' if taken else ''}.mp4"
        self.show, self.frames, self.actions, self.rewards = show, [], [], []  # type: ignore[var-annotated]
        self._film = VideoWriter(self.path, 1 / show.dt)

    def add(self, images: list[np.ndarray], lines: list[str]) -> None:
        """What is seen now: the show's pictures, with lines of text below them."""
        self._film.add(with_lines(side_by_side(images, self.show.panels), lines))
        frame, action, reward = self.show.moment
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)

    def close(self) -> Path:
        """Finish it, and return where the film is."""
        self._film.close()
        known = next((np.asarray(action) for action in self.actions if action is not None), np.zeros(0))
        whole = np.issubdtype(known.dtype, np.integer)
        nothing = np.full(known.shape, -1 if whole else np.nan)
        actions = np.array([nothing if action is None else action for action in self.actions])
        for name, values in (
            ("frames", np.stack(self.frames)),
            ("actions", actions.astype(np.int64 if whole else np.float32)),
            ("rewards", np.array(self.rewards, np.float32)),
        ):
            content = io.BytesIO()
            np.save(content, values)
            write_atomically(self.path.with_name(f"{self.path.stem}-{name}.npy"), content.getvalue())
        return self.path


class Kept:
    """The dataset of a drive's episodes that somebody wanted to keep."""

    def __init__(self, folder: Path, drive: Drive, seed: int) -> None:
        self.drive = drive
        self.dataset = Growing(folder, manifest_of(drive.world, seed, POLICIES))
        self._seeds = {entry.seed for entry in self.dataset.manifest.episodes}
        self._fresh: list[int] = []
        self._seed, self._next = seed, 0
        drive.seeds = self.seed_of

    def seed_of(self, number: int) -> int:
        """The simulator's seed of episode `number` of this session: of those that recordings have, one that is not in
        the dataset yet."""
        while len(self._fresh) <= number:
            seed = recording_seed(self._seed, self._next)
            self._next += 1
            if seed not in self._seeds:
                self._fresh.append(seed)
        return self._fresh[number]

    def keep(self) -> str:
        """Add the episode as it stands; says where it is."""
        drive, drove = self.drive, self.drive.drove
        policy = self.dataset.policy(max(drove, key=lambda name: drove[name]))  # whoever drove most of it
        held_out = None if drive.dreamt else drive.world.held_out(drive.seed)
        episode = drive.tape.episode(len(self.dataset), drive.seed, policy, held_out)
        if not drive.over:
            episode.truncated[-1] = True
        self.dataset.add(episode)
        return f"kept as episode {episode.index} of {self.dataset.folder}"
