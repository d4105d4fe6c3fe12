"""A lesson: trial after trial the clone drives, and the teacher takes over by holding keys. World, clone and book are
stepped in one thread, at a steady pace; the clone learns in another (teacher/learner.py), and whoever shows the picture
(teacher/server.py) is told of it by `show` and `tell`.

A step: the clone looks and chooses; the picture is shown; when the step is due, what the teacher holds is looked at:
with no key that means anything, the clone's choice is taken and counts as approved, else the teacher's action is taken
and counts as a demonstration. The step goes into the book, and then to the learner.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive.data.episode import Episode
from dreamdrive.driving.driver import Driver, Moment, drive
from dreamdrive.envs import World
from dreamdrive.teacher.book import Book
from dreamdrive.teacher.clone import Clone
from dreamdrive.teacher.learner import Learner
from dreamdrive.utils.keys import Keys
from dreamdrive.utils.metrics import read_csv, write_csv
from dreamdrive.utils.plots import curves
from dreamdrive.utils.seeds import recording_seed

RATE = 30.0  # steps and pictures a second, at speed 1
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
REST = 1.0  # seconds the last picture of a trial stays
LONGEST_WAIT = 0.02  # seconds between two looks at whether there is a teacher
RUNNING, COUNTING, OVER, DONE = "running", "count-down", "over", "done"


class Held:
    """The keys a teacher holds. They are let go by themselves unless that is confirmed again within `EXPIRY`: no key is
    stuck when a connection dies."""

    EXPIRY = 0.15  # seconds

    def __init__(self) -> None:
        self._keys: frozenset[str] = frozenset()
        self._until = 0.0

    def hold(self, keys: frozenset[str]) -> None:
        self._keys, self._until = keys, time.monotonic() + self.EXPIRY

    def now(self) -> frozenset[str]:
        return self._keys if time.monotonic() < self._until else frozenset()


class Interrupted(Exception):
    """The trial ends before its time."""


class Taught(Driver):
    """The clone, unless the teacher holds keys.

    Attributes:
        choice, action: what the clone would have done, and what was done last
        shown: whether that was the teacher's
        sample: of the observation it was done on, see teacher.clone.Clone
    """

    def __init__(self, session: "Session") -> None:
        self.session, self.clone = session, session.clone

    def reset(self, num: int, rngs: Sequence[np.random.Generator] = (), parameters: torch.Tensor | None = None) -> None:
        super().reset(num)
        self.clone.reset(num)

    def see(self, obs: torch.Tensor) -> None:
        self._obs = obs
        self.clone.see(obs)

    def choose(self) -> torch.Tensor:
        choice = self.clone.choose()[0].numpy()
        self.choice = int(choice) if choice.ndim == 0 else choice
        self.sample = self.clone.sample
        self.action, self.shown = self.session.decide(self.choice, self._obs)
        return torch.as_tensor(np.asarray(self.action))[None]

    def follow(self, action: torch.Tensor) -> None:
        self.clone.follow(action)


class Session:
    """A lesson of `trials` trials (None: until it is stopped).

    Attributes:
        held: what the teacher holds        orders: what else is wanted, as (what, value): see `_obey`
        present: set while there is a teacher; without one nothing moves, since nobody could object
        rows: of metrics.csv, one a trial
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        clone: Clone,
        learner: Learner,
        book: Book,
        keys: Keys,
        only_demonstrations: bool,
        trials: int | None,
        countdown: float,
        show: Callable[[np.ndarray, dict], None],
        tell: Callable[[dict], None],
    ) -> None:
        self.folder, self.world, self.clone, self.learner, self.book, self.keys = (
            folder,
            world,
            clone,
            learner,
            book,
            keys,
        )
        self.only, self.trials, self.countdown, self._show, self._tell = (
            only_demonstrations,
            trials,
            countdown,
            show,
            tell,
        )
        self.held, self.present = Held(), threading.Event()
        self.orders: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self.speed, self.paused, self.stopping, self._single, self._reset, self.seen = (
            1.0,
            False,
            False,
            False,
            False,
            False,
        )
        self._last: dict = {}
        self._due, self._shown, self._phase = time.monotonic(), 0.0, COUNTING
        self._previous: np.ndarray | int | None = None  # action
        self._pressed: frozenset[str] = frozenset()  # what the teacher held when the last picture was shown
        old = {row["trial"]: row for row in read_csv(folder / "metrics.csv")}
        self.rows: list[dict] = []
        self.samples, self.demonstrations = 0, 0
        for episode in book.episodes():
            self._take_in(episode, old.get(str(episode.index + 1), {}))
        if len(self.rows) > len(old):  # a process that was killed left a trial
            write_csv(folder / "metrics.csv", self.rows)

    def run(self) -> None:
        """All trials; returns when there are enough, or soon after `end`."""
        try:
            while not self.stopping and (self.trials is None or self.book.trial < self.trials):
                self._trial()
        finally:
            self._tell(self.status(DONE))

    def end(self) -> None:
        """Stop at the next step; what was taught is kept."""
        self.stopping = True

    def status(self, phase: str | None = None) -> dict:
        """All the page shows beside the picture and what changes with every step."""
        return {
            "phase": phase or self._phase,
            "trial": self.book.trial + (phase != DONE),
            "trials": self.trials,
            "samples": self.samples,
            "demonstrations": self.demonstrations,
            "stopping": self.stopping,
            "shares": [round(row["overridden"], 4) for row in self.rows],
            "speed": self.speed,
            "paused": self.paused,
            "seen": self.seen,
        }

    def _trial(self) -> None:
        """One trial, from its count-down to its shard."""
        parameters, self._snapshot = self.learner.newest
        self.clone.model.load_state_dict(parameters)
        taught, self._reset = Taught(self), False
        try:
            for moment in drive(self.world, taught, [recording_seed(self.book.seed, self.book.trial)]):
                obs = moment.obs
                if moment.step is None:
                    self._begin(obs)
                else:
                    self._note(moment, taught)
        except Interrupted:
            pass
        self._finish(obs)

    def _begin(self, obs: torch.Tensor) -> None:
        """Count down."""
        self.book.begin(obs[0].numpy())
        self._step, self._return, self._previous = 0, 0.0, None
        self._enter(COUNTING)
        for tick in range(round(self.countdown * RATE)):
            self._picture(count=int(np.ceil(self.countdown - tick / RATE)), obs=obs)
            self._wait(free=True)
        self._enter(RUNNING)

    def decide(self, choice: np.ndarray | int, obs: torch.Tensor) -> tuple[np.ndarray | int, bool]:
        """Show what the clone would do, wait until the step is due, and look at the keys: the action to take, and
        whether it is the teacher's. Interrupted if the trial is to end."""
        self._picture(choice=choice, obs=obs)
        self._wait()
        if self.stopping or self._reset:
            raise Interrupted
        action = self.keys.action(self.held.now(), self._previous)
        return (choice, False) if action is None else (action, True)

    def _note(self, moment: Moment, taught: "Taught") -> None:
        """A step was taken: into the book with it, and to the learner."""
        assert moment.step is not None, "it was taken"
        reward = float(moment.step.reward)
        self.book.add(
            moment.obs[0].numpy(),
            action=taught.action,
            clone_action=taught.choice,
            demonstration=taught.shown,
            reward=reward,
            terminated=bool(moment.step.terminated),
            truncated=bool(moment.step.truncated),
        )
        vector = self.clone.model.space.vector(torch.as_tensor(np.asarray(taught.action))).numpy()
        self.learner.add(taught.sample, vector, taught.shown or not self.only, moment.steps == 1)
        if self.learner.failure is not None:
            raise self.learner.failure
        self.samples, self.demonstrations = self.samples + 1, self.demonstrations + taught.shown
        self._step, self._return, self._previous = moment.steps, self._return + reward, taught.action

    def _finish(self, obs: torch.Tensor) -> None:
        """The end of a trial, by whatever: its last picture stays while another thread saves it."""
        self._enter(OVER)
        rest = round(min(REST, self.countdown) * RATE)
        with ThreadPoolExecutor(1) as other:
            saved, ticks = other.submit(self._save), 0
            while not self.stopping and (ticks < rest or not saved.done()):
                self._picture(obs=obs)
                self._wait(free=True)
                ticks += 1
        saved.result()
        self._enter(OVER)

    def _save(self) -> None:
        """Make a shard of the trial, count it, and write what is known of all of them."""
        episode = self.book.finish()
        if episode is None:
            return
        assert episode.demonstration is not None, "a lesson's episodes have it"
        self.samples, self.demonstrations = (
            self.samples - len(episode.action),
            self.demonstrations - int(episode.demonstration.sum()),
        )
        self._take_in(
            episode, {"loss": self.learner.loss, "training_steps": self.learner.steps, "snapshot": self._snapshot}
        )
        write_csv(self.folder / "metrics.csv", self.rows)
        curves(
            self.folder / "lesson.png",
            self.rows,
            "trial",
            [("overridden", "demonstrated"), ("return",), ("loss",)],
            "the lesson",
        )

    def _take_in(self, episode: Episode, known: dict) -> None:
        """Count a trial that is over; `known`: what only its time could tell."""
        assert episode.demonstration is not None, "a lesson's episodes have it"
        differs = (episode.action != episode.clone_action).reshape(len(episode.action), -1).any(1)
        self.samples, self.demonstrations = (
            self.samples + len(episode.action),
            self.demonstrations + int(episode.demonstration.sum()),
        )
        self.rows.append(
            {
                "trial": episode.index + 1,
                "seed": episode.seed,
                "steps": len(episode.action),
                "return": float(episode.reward.sum(dtype=np.float64)),
                "demonstrated": float(episode.demonstration.mean()),
                "overridden": float((differs & (episode.demonstration > 0)).mean()),
                "samples": self.samples,
                "training_steps": int(known.get("training_steps") or 0),
                "snapshot": int(known.get("snapshot") or 0),
                "loss": float(known.get("loss") or "nan"),
            }
        )

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tell(self.status())

    def _picture(self, count: int = 0, choice: np.ndarray | int | None = None, obs: torch.Tensor | None = None) -> None:
        """Show where things are, what the clone would do and whether the teacher holds something else, unless that was
        shown a moment ago (at more than speed 1)."""
        now = time.monotonic()
        if now - self._shown < 0.7 / RATE and not self.paused and self._phase == RUNNING:
            return
        self._shown, self._last, self._pressed = now, {"count": count, "choice": choice, "obs": obs}, self.held.now()
        wanted = None if choice is None else self.keys.action(self._pressed, self._previous)
        taught, differs = wanted is not None, False
        if wanted is not None and choice is not None:
            differs = not np.array_equal(wanted, choice)
        numbers = obs[0].tolist() if obs is not None and obs.ndim == 2 and obs.shape[1] <= 8 else None
        pictured = self.seen and obs is not None and obs.ndim == 4
        picture = obs[0].numpy() if pictured and obs is not None else self.world.render()
        self._show(
            picture,
            {
                "step": self._step,
                "return": round(self._return, 3),
                "taught": taught,
                "differs": differs,
                "count": count,
                "loss": None if np.isnan(self.learner.loss) else round(self.learner.loss, 4),
                "training": self.learner.steps,
                "clone": None if choice is None else self.keys.words(choice),
                "numbers": numbers,
                "samples": self.samples,
                "demonstrations": self.demonstrations,
            },
        )

    def _wait(self, free: bool = False) -> None:
        """Until the next step is due: while the teacher is there, nothing is paused, or a single step was asked for.
        `free`: for a picture, not for a step."""
        pace = 1 / (RATE * (1.0 if free else self.speed))
        while not self.stopping and not (self._reset and not free):
            with contextlib.suppress(queue.Empty):
                while True:  # what was ordered is done before a step that is due, or late
                    self._obey(*self.orders.get_nowait())
            now = time.monotonic()
            halted = (self.paused and not free) or not self.present.is_set()
            if self._single and self.present.is_set() and not free:
                self._single, self._due = False, now
                return
            if halted:
                self._due = now + pace
                if self._last and self.held.now() != self._pressed:
                    self._picture(**self._last)
            elif now >= self._due:
                self._due = max(self._due + pace, now)  # a slow step is not made up for by a rush
                return
            with contextlib.suppress(queue.Empty):
                self._obey(
                    *self.orders.get(timeout=LONGEST_WAIT if halted else min(LONGEST_WAIT, max(0.0, self._due - now)))
                )

    def _obey(self, what: str, value: Any = None) -> None:
        """Carry out what was ordered: pause, go, step, reset, stop, speed (one of SPEEDS), view (whether to show what
        the clone sees)."""
        if what in ("pause", "go"):
            self.paused = what == "pause"
        elif what == "step":
            self.paused = self._single = True
        elif what == "reset":
            self._reset = True
        elif what == "stop":
            self.stopping = True
        elif what == "speed":
            self.speed = value
        elif what == "view":
            self.seen = value
            self._shown = 0.0
            self._picture(**self._last)
        self._tell(self.status())
