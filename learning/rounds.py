"""All stages in rounds (train.py): what is recorded and learnt in each, and which round's driver is chosen."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamdrive.data.latents import LATENTS
from dreamdrive.data.manifest import MANIFEST, Manifest, read_manifest
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.driving.recording import generate
from dreamdrive.driving.recording_settings import RecordingSettings
from dreamdrive.envs import REPEAT, official
from dreamdrive.learning.cloning_inputs import clone
from dreamdrive.learning.control import train_actor
from dreamdrive.learning.memory import train_memory
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.learning.vision import train_vision
from dreamdrive.models.controller import parameter_vector
from dreamdrive.utils import checkpoint
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.json_files import write_json
from dreamdrive.utils.plots import curves
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.seeds import selection_seeds
from dreamdrive.utils.settings import next_command

STAGES = ("vae", "mdrnn", "ctrl")
SETTLED = "settled"  # folder of the run after the last round, M and actor of which have settled
RECENT = 3  # rounds whose episodes count twice when M and the actor learn


class Rounds:
    """A run.

    Attributes:
        done: what rounds/<NN>.json says of each round that is done
    """

    def __init__(self, args: RoundsSettings) -> None:
        self.args, self.folder = args, make_folder(args.logdir / "rounds")
        self.done: list[dict] = []

    def run(self) -> None:
        """Do what is not done yet."""
        for number in range(self.args.rounds + 1):
            said = self._said(number)
            if said is None:
                print(f"round {number} of {self.args.rounds}", flush=True)
                said = self._round(number)
            self.done.append(said)
            scores = "  ".join(f"{name} {np.mean(values):.1f}" for name, values in said["recorded"].items())
            print(f"round {number}: {said['frames']} frames  {scores}", flush=True)
        if self.args.rounds:
            if self.args.actor_settles:
                self._settle()
            Choice(self.args, self.folder, self.done).make()
            draw(self.folder / "curve.png", self.done)

    def _said(self, number: int) -> dict | None:
        """What a round did, if it is done; UserError where it was told something else."""
        path = self.folder / f"{number:02d}.json"
        if not path.exists():
            return None
        said = json.loads(path.read_text())
        before = RoundsSettings().settings() | said["settings"]  # a version before ours may not have had all of them
        for name, value in self.args.settings().items():
            if before[name] != value:
                raise UserError(
                    f"{path} is of a run with {name} {before[name]}, not {value}: give the same, or another --logdir"
                )
        return said

    def _round(self, number: int) -> dict:
        """Record, learn, keep; what rounds/<NN>.json says of it."""
        own = make_folder(self._own(number))
        recorded = self._record(number)
        datasets = self._datasets(number)
        if self.args.learns_vision(number):
            learnt = [k for k in range(number + 1) if self.args.learns_vision(k)]
            epochs = sum(self.args.epochs_of_vision(k, self._frames(k)) for k in learnt)
            train_vision(self.args.vision(epochs, tuple(dict.fromkeys(datasets))))
        train_memory(self.args.memory(number, datasets))
        if self.args.clone and number == 0:
            clone(self.args.cloning(own / "expert"))
        train_actor(self.args.actor(number))
        keep_run(own, self.args.logdir)
        manifests = [read_manifest(folder) for folder in dict.fromkeys(datasets)]
        said = {
            "round": number,
            "frames": sum(m.options.get(REPEAT, 1) * e.steps for m in manifests for e in m.episodes),
            "recorded": {kind: [e.score for e in manifest.episodes] for kind, manifest in recorded.items()},
            "digests": digests(own),
            "settings": self.args.settings(),
        }
        write_json(self.folder / f"{number:02d}.json", said)
        return said

    def _settle(self) -> None:
        """M and the actor learn on, from the last round's on and from the same episodes, in a run by itself, so that
        more rounds can follow."""
        folder, mark = self.folder / SETTLED, self.folder / f"{SETTLED}.json"
        begun, now = digests(self._own(self.args.rounds)), digests(self.args.logdir)
        if begun != now:
            raise UserError(
                f"{self.args.logdir} has learnt on since round {self.args.rounds}, from which M and the actor are to "
                "settle: give the --rounds that it has, or --actor-settles 0"
            )
        said = json.loads(mark.read_text()) if mark.exists() else {}
        told = {"from": begun, "updates": self.args.actor_settles}
        if {name: said.get(name) for name in told} != told:
            mark.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            keep_run(folder, self.args.logdir, ("best.tar", "checkpoint.tar"))
            latents = make_folder(folder / LATENTS)
            for path in (self.args.logdir / LATENTS).glob("*.h5"):
                os.link(path, latents / path.name)
            write_json(mark, told)
        elif "digests" in said:  # it is done
            return
        print("M and the actor settle", flush=True)
        memory, actor = self.args.settling(self.args.rounds, self._datasets(self.args.rounds), folder)
        train_memory(memory)
        train_actor(actor)
        write_json(mark, {**told, "digests": digests(folder)})

    def _own(self, number: int) -> Path:
        return self.folder / f"{number:02d}"

    def _record(self, number: int) -> dict[str, Manifest]:
        """The episodes of a round, by kind. What is whole stays as it is: who drove it may have learnt on since."""
        args, recorded = self.args, {}
        common = RecordingSettings(
            env=args.env, options=args.options, seed=args.seed, give_up=args.give_up, **args.crew()
        )
        for kind, plan in self._plans(number).items():
            folder = self._own(number) / kind
            if not (folder / MANIFEST).exists() or not read_manifest(folder).complete:
                generate(replace(common, rootdir=folder, **plan))
            recorded[kind] = read_manifest(folder)
        return recorded

    def _plans(self, number: int) -> dict[str, dict[str, Any]]:
        """What is recorded in a round, by kind: settings of stage 1."""
        args = self.args
        if number == 0:
            expert = {"policy": "expert", "rollouts": args.expert, "skip": args.random}
            told: dict[str, dict] = {
                "random": {"policy": "brown=0.5,held=0.5", "rollouts": args.random},
                "expert": {**expert, "action_noise": args.expert_noise},
            }
            return {kind: plan for kind, plan in told.items() if plan["rollouts"]}
        # a world that keeps places apart for validation says itself which episodes are for that
        places = any(read_manifest(self._own(0) / kind).by_place for kind in self._plans(0))
        first, half = args.random + args.expert + (number - 1) * args.episodes, args.episodes // 2
        clean = {
            "policy": "controller",
            "logdir": args.logdir,
            "val_fraction": None if places else 0.0,
            "rollouts": args.episodes - half,
            "skip": first,
        }
        disturbed = {**clean, "rollouts": half, "skip": first + args.episodes - half, "action_noise": args.action_noise}
        return {"clean": clean, "disturbed": disturbed}

    def _datasets(self, number: int) -> tuple[Path, ...]:
        """Of all rounds so far; those of the last RECENT rounds twice, so that they count twice."""
        folders = [[self._own(k) / kind for kind in self._plans(k)] for k in range(number + 1)]
        recent = [folder for k, own in enumerate(folders) for folder in own if k and k > number - RECENT]
        return tuple(folder for own in folders for folder in own) + tuple(recent)

    def _frames(self, number: int) -> int:
        """That V learns from in a round."""
        manifests = [read_manifest(folder) for folder in dict.fromkeys(self._datasets(number))]
        found = sum(e.steps + 1 for m in manifests for e in m.episodes if e.split == "train")
        return found * (2 if self.args.mirrored else 1)


def draw(path: Path, done: list[dict]) -> None:
    """A picture of what each round recorded."""
    rows = [
        {"frames": said["frames"], **{kind: float(np.mean(v)) for kind, v in said["recorded"].items()}} for said in done
    ]
    curves(path, rows, "frames", [("clean", "disturbed")], "episodes recorded in each round")


class Choice:
    """Which round's driver is best: the last, that which settled after it, and those whose undisturbed episodes in the
    round after theirs were the best, drive the same tracks, which nothing was learnt on."""

    def __init__(self, args: RoundsSettings, folder: Path, done: list[dict]) -> None:
        """`done`: what is said of each round."""
        self.args, self.folder, self.frames = args, folder, done[-1]["frames"]
        scores = {said["round"] - 1: float(np.mean(said["recorded"]["clean"])) for said in done[1:]}
        best = sorted(scores, key=lambda number: -scores[number])[: args.candidates - 1]
        self.candidates = [f"{number:02d}" for number in sorted({*best, args.rounds})]
        self.candidates += [SETTLED] if args.actor_settles else []

    def make(self) -> None:
        """Write chosen.json and `best`."""
        args, path = self.args, self.folder / "chosen.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        drawn = {"seed": args.seed, "episodes": args.selection_episodes, "rounds": self.candidates}
        if {name: said.get(name) for name in drawn} != drawn:
            found = {name: self._drive(self.folder / name) for name in self.candidates}
            returns = {name: values for name, (values, _) in found.items()}
            best = max(returns, key=lambda name: np.mean(returns[name]))
            frames = sum(steps for _, steps in found.values())
            said = {**drawn, "returns": returns, "frames": frames, "best": best}
            write_json(path, said)
        keep_run(self.folder / "best", self.folder / said["best"])
        means = ", ".join(f"{called(name)} {np.mean(values):.1f}" for name, values in said["returns"].items())
        print(
            f"{self.frames} frames recorded, and {said['frames']} driven to choose between rounds: {means}; "
            f"next: {next_command('test_controller.py', '--logdir', self.folder / 'best')}"
        )

    def _drive(self, own: Path) -> tuple[list[float], int]:
        """Returns of a round's driver on the tracks that rounds are chosen by, and the frames that took."""
        args, where = self.args, device(self.args.device)
        agent = load_agent(own, "ctrl")
        spec = DriverSpec("agent", own, agent.controller.config_dict())
        parameters, options = parameter_vector(agent.controller), agent.world.get("options", {})
        evaluator = Evaluator(official(agent.world["env"]), spec, args.max_workers, where, options, args.cluster)
        seeds = evaluator.different(selection_seeds(args.seed, args.selection_episodes))
        with evaluator, Bar(total=len(seeds), desc=f"{called(own.name)} on tracks for choosing", unit="episode") as bar:
            returns = evaluator.returns([(parameters, seed) for seed in seeds], bar)
        return returns, evaluator.steps


def called(name: str) -> str:
    """What a folder in rounds/ is called in messages."""
    return f"round {int(name)}" if name.isdecimal() else name


def digests(run: Path) -> dict[str, str]:
    return {stage: checkpoint.load_parent(run, stage)["digest"] for stage in STAGES}


def keep_run(folder: Path, source: Path, names: tuple[str, ...] = ("best.tar",)) -> None:
    """Make `folder` a run by itself, of the checkpoints with these names in the run `source`; they are links, since
    nobody writes into a checkpoint."""
    for stage in STAGES:
        for name in names:
            link = make_folder(folder / stage) / name
            link.unlink(missing_ok=True)
            os.link(source / stage / name, link)
