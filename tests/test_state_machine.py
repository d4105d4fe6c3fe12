"""A dataset and a run to which anything may happen in any order: recorded, grown, killed, damaged, repaired, trained,
resumed, exported, imported, moved. What is listed verifies, nothing ends in a traceback, and in the end all bytes are
those of the same commands undisturbed.

`make soak` has Hypothesis try 500 such lives, CI 25, see conftest.py.
"""

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dreamdrive.data.manifest import read_manifest
from dreamdrive.data.shards import verify
from dreamdrive.tests.tiny_process import Strike, go
from dreamdrive.tests.tiny_run import Done, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError

RECORD = ("--env", "gym:CartPole-v1", "--max-steps", 20, "--val-fraction", 0.25, "--threads", 1)
V = ("--kind", "fsq", "--batch-size", 32, "--epoch-frames", 64, "--nosamples", "--device", "cpu")
M = ("--hidden", 8, "--seq-len", 8, "--batch-size", 4, "--device", "cpu")
STAGES = {"vae": ("trainvae", V), "mdrnn": ("trainmdrnn", M)}
SIZES, EPOCHS = (4, 5, 6), (1, 2)  # of a dataset, episodes; of a training
PLACES = {"data": ("data", "moved/data"), "run": ("run", "moved/run")}  # where each may be
# What may be damaged: files, and which of two folders they are in. Pictures, and what is written for people, are not.
FRAIL = {
    "shard": ("data", "shard_*.h5"),
    "manifest": ("data", "manifest.json"),
    "best": ("run", "*/best.tar"),
    "checkpoint": ("run", "*/checkpoint.tar"),
    "latents": ("run", "latents/*.h5"),
}
READ = {  # of what is read although some of its bits are others
    "manifest": lambda path: read_manifest(path.parent),
    "best": lambda path: checkpoint.load(path, path.parent.name),
    "checkpoint": lambda path: checkpoint.load(path, path.parent.name),
}
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143}
strikes = st.none() | st.builds(Strike, st.integers(1, 70), st.sampled_from(list(STATUS)))
Log = tuple[tuple, ...]  # commands that took effect: ("record", episodes), (stage, folder of the dataset, epochs, anew)


def recording(folder: str, episodes: int) -> tuple:
    return "data.generation_script", *RECORD, "--rootdir", folder, "--rollouts", episodes


def training(stage: str, data: str, run: str, epochs: int, anew: bool) -> tuple:
    script, flags = STAGES[stage]
    return script, *flags, "--dataset", data, "--logdir", run, "--epochs", epochs, *(["--noreload"] if anew else [])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


class Undisturbed:
    """What commands make that nothing happens to; each is done once, whoever asks."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, dict[Log, Path]()

    def after(self, log: Log) -> Path:
        """The folder with data and run after these commands."""
        if log not in self._known:
            before = self.after(log[:-1]) if log else None
            place = self._folder / str(len(self._known))
            if before:
                shutil.copytree(before, place, copy_function=os.link)
                self._do(place, *log[-1])
            else:
                place.mkdir()
            self._known[log] = place
        return self._known[log]

    @staticmethod
    def _do(place: Path, what: str, *details) -> None:
        if what == "record":
            done = go(place, *recording("data", *details))
        else:
            data, *others = details
            (place / "data").rename(move_to(place / data))
            done = go(place, *training(what, data, "run", *others))
            (place / data).rename(place / "data")
        assert done.returncode == 0, done.stderr


def move_to(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


class Life(RuleBasedStateMachine):
    """One dataset and one run, and what is known of them.

    Attributes:
        at: where each of the two is        sizes: that the dataset was to have, one after another
        log: what took effect        open: what is left of commands that were struck, by stage: episodes; epochs, anew
        damaged: files, with what they were and the sha256 of what they are
    """

    undisturbed: Undisturbed

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.at = {what: places[0] for what, places in PLACES.items()}
        self.sizes: tuple[int, ...] = ()
        self.log: Log = ()
        self.open: dict[str, tuple] = {}
        self.damaged: dict[Path, tuple[bytes, str]] = {}

    # Commands

    def go(self, *words, strike: Strike | None = None, fails: bool | None = None) -> Done:
        """Run a script; `fails`: whether it must, None where both will do."""
        done = go(self.folder, *words, strike=strike)
        assert "Traceback" not in done.stdout + done.stderr, done
        if self.struck(done):
            assert strike and done.returncode == STATUS[strike.number], done
        elif done.returncode:
            assert fails is not False, done
            complaint(done)
        else:
            assert not fails, done
        return done

    @staticmethod
    def struck(done: Done) -> bool:
        return done.returncode not in (0, 1, 2)

    def path(self, what: str) -> Path:
        return self.folder / self.at[what]

    def manifest(self) -> dict:
        """What the manifest holds; nothing where it is not as it was written."""
        path = self.path("data") / "manifest.json"
        return json.loads(path.read_bytes()) if path.exists() and path not in self.damaged else {}

    def complete(self) -> bool:
        there = self.manifest()
        return bool(there) and len(there["episodes"]) == there["rollouts"]

    def shards_are_sound(self) -> bool:
        return not any(path.is_relative_to(self.path("data")) for path in self.damaged)

    def note_sizes(self, asked: int) -> None:
        """A recording has ended somehow: see how far it got."""
        there = self.manifest()
        if not there or not there["shards"]:
            assert not there or not self.sizes
            return
        sizes = (*there["grown_from"], there["rollouts"])
        assert sizes in (self.sizes, (*self.sizes, asked))
        if sizes != self.sizes:
            self.sizes, self.log = sizes, (*self.log, ("record", asked))

    # What may be done

    @initialize(episodes=st.sampled_from(SIZES), strike=strikes)
    def begin(self, episodes: int, strike: Strike | None) -> None:
        self.record(episodes, strike)

    @rule(episodes=st.sampled_from(SIZES), strike=strikes)
    def record(self, episodes: int, strike: Strike | None) -> None:
        episodes = max(episodes, *self.sizes, 0)
        manifest = self.path("data") / "manifest.json"
        done = self.go(
            *recording(self.at["data"], episodes), strike=strike, fails=None if manifest in self.damaged else False
        )
        self.look_again()
        self.note_sizes(episodes)
        self.open.pop("record", None)
        if self.struck(done):
            self.open["record"] = (episodes,)

    @rule(epochs=st.sampled_from(EPOCHS), strike=strikes, patient=st.booleans())
    def train_vision(self, epochs: int, strike: Strike | None, patient: bool) -> None:
        self.wait(patient)
        self.train("vae", epochs, strike)

    @rule(epochs=st.sampled_from(EPOCHS), strike=strikes, patient=st.booleans())
    def train_memory(self, epochs: int, strike: Strike | None, patient: bool) -> None:
        self.wait(patient)
        if "vae" in self.open or not (self.path("run") / "vae" / "checkpoint.tar").exists():
            self.train("vae", 1, None)
        if "vae" not in self.open and (self.path("run") / "vae" / "checkpoint.tar").exists():
            self.train("mdrnn", epochs, strike)

    def wait(self, patient: bool) -> None:
        """Who is patient has a recording that was struck end first."""
        if patient and "record" in self.open:
            self.record(self.open["record"][0], None)

    def train(self, stage: str, epochs: int, strike: Strike | None) -> None:
        """Train up to this epoch or the one that is reached already; what was struck goes on as it was."""
        path, anew, reached = self.path("run") / stage / "checkpoint.tar", False, 0
        if stage in self.open:
            epochs, anew = self.open[stage]
        if path.exists() and path not in self.damaged:
            there = torch.load(path, weights_only=True)
            anew |= stage == "mdrnn" and there["parents"]["vae"] != digest(self.path("run") / "vae" / "best.tar")
            reached = 0 if anew else there["epoch"]
        if stage not in self.open:
            if reached == EPOCHS[-1] and not self.damaged:
                return  # nothing is left to do
            epochs = min(max(epochs, reached + (strike is None)), EPOCHS[-1])
        self.given(stage, epochs, anew, strike)

    def given(self, stage: str, epochs: int, anew: bool, strike: Strike | None) -> None:
        """Train, and see how far that got."""
        path = self.path("run") / stage / "checkpoint.tar"
        before, fails = digest(path), None if self.damaged else not self.complete()
        data = self.at["data"]
        done = self.go(*training(stage, data, self.at["run"], epochs, anew), strike=strike, fails=fails)
        self.look_again()
        if digest(path) != before:
            reached = torch.load(path, weights_only=True)["epoch"]
            self.log = (*self.log, (stage, data, reached, anew))
            anew = False
        assert done.returncode or path.with_name("best.tar").exists(), done
        if self.struck(done) or (done.returncode and stage in self.open):
            self.open[stage] = (epochs, anew)
        elif not done.returncode:
            self.open.pop(stage, None)

    @rule(
        kind=st.sampled_from(list(FRAIL)),
        number=st.integers(0, 5),
        where=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
        gone=st.booleans(),
    )
    def damage(self, kind: str, number: int, where: float, bit: int, gone: bool) -> None:
        """A bit of a file changes, or it is gone."""
        place, pattern = FRAIL[kind]
        there = [path for path in sorted(self.path(place).glob(pattern)) if path not in self.damaged]
        if not there or len(self.damaged) > 2:
            return
        path = there[number % len(there)]
        content = path.read_bytes()
        path.unlink()  # what is linked to it stays
        if not gone:
            changed = bytearray(content)
            changed[int(where * len(content))] ^= 1 << bit
            path.write_bytes(changed)
            if kind in READ and readable(READ[kind], path):  # a bit that says nothing
                path.write_bytes(content)
                return
        self.damaged[path] = (content, digest(path))

    @precondition(lambda self: self.damaged)
    @rule(number=st.integers(0, 5))
    def restore(self, number: int) -> None:
        """Put a copy in the place of what was damaged."""
        path = list(self.damaged)[number % len(self.damaged)]
        content, _ = self.damaged.pop(path)
        path.write_bytes(content)

    def look_again(self) -> None:
        """Forget damage that is no more, because the file has been written anew."""
        self.damaged = {p: (content, now) for p, (content, now) in self.damaged.items() if digest(p) == now}

    @rule(strike=strikes, mend=st.booleans())
    def look_through(self, strike: Strike | None, mend: bool) -> None:
        if mend and self.sizes:
            self.repair(strike)
        else:
            self.verify()

    def verify(self) -> None:
        folder = self.path("data")
        done = go(self.folder, "driving.repair", self.at["data"])
        assert "Traceback" not in done.stdout + done.stderr, done
        there = self.manifest()
        if not there:
            complaint(done)
            return
        ours = {"manifest.json", "args.json", ".lock", "damaged", *(shard["file"] for shard in there["shards"])}
        others = {path.name for path in folder.iterdir()} - ours
        right = self.complete() and self.shards_are_sound() and not others
        assert done.returncode == (0 if right else 1), (done, others)

    def repair(self, strike: Strike | None) -> None:
        words = ("driving.repair", self.at["data"], "--repair", "--threads", 1)
        done = self.go(*words, strike=strike, fails=None if not self.manifest() else False)
        self.look_again()
        self.note_sizes(self.sizes[-1])
        if not done.returncode:
            assert self.complete() and self.shards_are_sound(), done

    @rule(strike=strikes, again=strikes)
    def over_and_back(self, strike: Strike | None, again: Strike | None) -> None:
        """To Minari, and back: the same bytes."""
        if not self.complete() or not self.shards_are_sound():
            return
        self.until_done("data.exchange", "export", "minari", self.at["data"], "--out", "x-v0", strike=strike)
        self.until_done("data.exchange", "import", "minari", "x-v0", "--out", "back", strike=again)
        assert sums(self.folder / "back") == sums(self.path("data"))
        assert left_over(self.folder / "back") == [] == left_over(self.folder / "x-v0")
        for name in ("x-v0", "back"):
            shutil.rmtree(self.folder / name)

    @rule(strike=strikes)
    def hand_on(self, strike: Strike | None) -> None:
        """The run in half precision: exported twice, the same."""
        if self.open or self.damaged or not (self.path("run") / "vae" / "best.tar").exists():
            return
        best = digest(self.path("run") / "vae" / "best.tar")
        memory = self.path("run") / "mdrnn" / "best.tar"
        stale = memory.exists() and torch.load(memory, weights_only=True)["parents"]["vae"] != best
        words = ("data.exchange", "export", "run", "--logdir", self.at["run"], "--out")
        if stale:
            self.go(*words, "out", fails=True)
            return
        self.until_done(*words, "out", strike=strike)
        self.until_done(*words, "again")
        assert sums(self.folder / "out") == sums(self.folder / "again")
        checkpoint.load_parent(self.folder / "out", "vae")
        for name in ("out", "again"):
            shutil.rmtree(self.folder / name)

    def until_done(self, *words, strike: Strike | None = None) -> None:
        """Run a script, and where it was struck once more."""
        if self.struck(self.go(*words, strike=strike, fails=False)):
            self.go(*words, fails=False)

    @rule(what=st.sampled_from(list(PLACES)))
    def move(self, what: str) -> None:
        before = self.path(what)
        if not before.exists():
            return
        here, there = PLACES[what]
        self.at[what] = there if self.at[what] == here else here
        before.rename(move_to(self.path(what)))
        self.damaged = {
            self.path(what) / path.relative_to(before) if path.is_relative_to(before) else path: damage
            for path, damage in self.damaged.items()
        }

    # What holds

    @invariant()
    def what_is_listed_is_as_it_would_be_undisturbed(self) -> None:
        there = self.manifest()
        if not there or not self.sizes:
            return
        wanted = self.undisturbed.after(tuple(("record", size) for size in self.sizes)) / "data"
        for shard in there["shards"]:
            path = self.path("data") / shard["file"]
            if path not in self.damaged:
                assert digest(path) == shard["sha256"] == digest(wanted / shard["file"]), path

    def teardown(self) -> None:
        try:
            if self.sizes or self.open:
                self.end()
        finally:
            shutil.rmtree(self.folder)

    def end(self) -> None:
        """All is mended and finished, and as it would be undisturbed."""
        for path, (content, _) in list(self.damaged.items()):
            if not path.match("shard_*"):
                path.write_bytes(content)
                del self.damaged[path]
        self.wait(True)
        if self.damaged or not self.complete():
            self.repair(None)
        for stage in STAGES:
            if stage in self.open:
                self.train(stage, 0, None)
        assert not self.damaged and not self.open
        assert verify(self.path("data")) == []
        wanted = self.undisturbed.after(self.log)
        for what in ("data", "run"):
            assert left_over(self.path(what)) == []
            assert sums(self.path(what)) == sums(wanted / what)


def readable(read: Callable, path: Path) -> bool:
    try:
        read(path)
    except UserError:
        return False
    return True


def sums(folder: Path) -> dict[str, str]:
    """Of what must be the same; latents may be of shards that are no more wanted, or not there yet."""
    names = ("manifest.json", "shard_*.h5", "*/best.tar", "*/checkpoint.tar", "*/metrics.csv")
    return {str(p.relative_to(folder)): digest(p) for name in names for p in sorted(folder.glob(name))}


def left_over(folder: Path) -> list[Path]:
    """Files that only a struck command can have left."""
    return [p for p in folder.rglob("*") if p.name.endswith((".tmp", "stopped.tar")) or p.name.startswith(".probe")]


@pytest.mark.slow
def test_whatever_happens_the_end_is_as_if_nothing_had(tmp_path_factory):
    Life.undisturbed = Undisturbed(tmp_path_factory.mktemp("undisturbed"))
    run_state_machine_as_test(Life)
