"""All stages in rounds: the driver's own episodes become data, V and M learn from all of it, and the actor learns on in
the dream (the iterative procedure of Ha & Schmidhuber 2018, section 5, with the actor-critic of stage 4a).

    round 0     random episodes; V, M and the actor begin
    round 1 ..  the actor of the round before drives, undisturbed and disturbed; M and the actor learn on
    at the end  the actors that drove best when they recorded drive tracks for choosing between them

Writes  exp_dir/rounds/<NN>/            the round's datasets, and vae, mdrnn and ctrl as they were after it: a run
        exp_dir/rounds/<NN>.json        what the round did: settings, frames, scores, digests
        exp_dir/rounds/best/            the run whose driver was chosen    exp_dir/rounds/chosen.json    how
        exp_dir/vae, mdrnn, ctrl        as after the last round
        exp_dir/rounds/curve.png        scores against frames

    python train.py --env carracing --repeat 4 --rounds 20 --logdir exp_dir/rounds-0

Run again it resumes, wherever it was stopped; a larger --rounds adds rounds.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
from tqdm import tqdm

from dreamdrive.data.manifest import MANIFEST, Manifest, read_manifest
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.driving.recording import RecordingSettings, generate
from dreamdrive.envs import REPEAT, flags, official, world_class
from dreamdrive.learning.actor_training import ActorSettings
from dreamdrive.learning.memory_settings import CORES, HEADS, MDRNNSettings
from dreamdrive.models.catalogue import TOKENS
from dreamdrive.models.controller import parameter_vector
from dreamdrive.traincontroller import train_actor
from dreamdrive.trainmdrnn import train_memory
from dreamdrive.trainvae import KIND_NAMES, VAESettings, train_vision
from dreamdrive.utils import checkpoint, runs
from dreamdrive.utils.argument_types import natural, natural_float, positive, share
from dreamdrive.utils.device import device
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder, write_atomically
from dreamdrive.utils.locks import locked
from dreamdrive.utils.plots import curves
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import selection_seeds
from dreamdrive.utils.settings import RunFolder, flag

STAGES = ("vae", "mdrnn", "ctrl")
RECENT = 3  # rounds whose episodes count twice when M and the actor learn
VISION_BATCH = 64
PARTS = 3  # epochs that M's updates of a round are counted in, each with a lower learning rate
FIRST_RATE, RATE = 1.5e-3, 7e-4  # M's, in the first round and in those after it, where nothing else lowers it
ACTOR_RATE = 7e-4
SETTLING = 8  # rounds after which the actor's learning rate is half of what it was, and M's 0.7 of it


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(RunFolder, flags.WorldSettings):
    """What it can be told."""

    env: str = flag("carracing", help="world to learn, as stage 1 takes it", fixed=True)
    rounds: int = flag(20, natural, "rounds after the first one; more than before resumes")
    random: int = flag(64, natural, "random episodes to begin with", fixed=True)
    expert: int = flag(0, natural, "episodes of the world's expert to begin with", fixed=True)
    episodes: int = flag(8, positive, "episodes of a round, half of them disturbed", fixed=True)
    action_noise: float = flag(0.3, natural_float, "of the disturbed ones, as stage 1 takes it", fixed=True)
    give_up: int = flag(60, natural, "steps without a reward above 0 that end an episode; 0: never", fixed=True)
    mirror: bool = flag(
        True, help="learn from all episodes in a mirror, too, where the world is the same there", fixed=True
    )
    kind: str = flag("vae", help="of V, as trainvae.py has it", choices=tuple(KIND_NAMES), fixed=True)
    tokens: int = flag(16, int, "of a frame, of a V of tokens", choices=TOKENS, fixed=True)
    latent: int = flag(32, positive, "Z, numbers V compresses a frame to", fixed=True)
    grid: bool = flag(False, help="V's latents as a grid over the frame, as trainvae.py has it", fixed=True)
    colour_balance: float = flag(0.0, natural_float, "of V, as trainvae.py takes it", fixed=True)
    moving_balance: float = flag(0.0, share, "of V, as trainvae.py takes it", fixed=True)
    beta: float = flag(1.0, natural_float, "of V, as trainvae.py takes it", fixed=True)
    fine_shades: bool = flag(True, help="of V, as trainvae.py takes it", fixed=True)
    returns: float = flag(8.0, natural_float, "of V, as trainvae.py takes it", fixed=True)
    vision_epochs: int = flag(12, natural, "of V in the first round; 0: V is there already", fixed=True)
    vision_every: int = flag(4, natural, "rounds after which V learns on, from all frames; 0: never", fixed=True)
    vision_last: int = flag(12, natural, "round after which it learns no more, and M and the actor settle", fixed=True)
    vision_more: int = flag(4, positive, "epochs of V then", fixed=True)
    vision_updates: int = flag(
        1400, natural, "of V in the first round at least, where that takes more epochs; half as many later", fixed=True
    )
    core: str = flag("lstm", help="of M, as trainmdrnn.py has it", choices=CORES, fixed=True)
    head: str = flag("mixture", help="of M, as trainmdrnn.py has it", choices=HEADS, fixed=True)
    members: int = flag(1, positive, "LSTMs of M; several are an ensemble", fixed=True)
    window: int = flag(32, positive, "steps M is trained to look back through", fixed=True)
    memory_updates: int = flag(9000, positive, "of M in rounds in which V learns", fixed=True)
    memory_more: int = flag(3000, positive, "of M in every other", fixed=True)
    actor_updates: int = flag(500, positive, "of the actor in rounds in which V learns", fixed=True)
    actor_more: int = flag(350, positive, "of the actor in every other", fixed=True)
    horizon: int = flag(12, positive, "steps of a dream", fixed=True)
    temperature: float = flag(1.0, natural_float, "of the dream", fixed=True)
    selection_episodes: int = flag(16, positive, "that rounds are chosen by in the end")
    candidates: int = flag(4, positive, "rounds that are compared then: the last, and those that recorded best")
    seed: int = flag(0, natural, "decides everything random in the run")
    device: str = flag("auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    max_workers: int = flag(os.cpu_count(), positive, "processes that drive the simulator")

    def settings(self) -> dict:
        """What may not change when rounds are added."""
        return {**self.fixed(), "options": self.options, "seed": self.seed}

    def learns_vision(self, number: int) -> bool:
        """Whether V learns in a round."""
        again = bool(self.vision_every) and number % self.vision_every == 0 and number <= self.vision_last
        return bool(self.vision_epochs) and (number == 0 or again)

    def updates(self, number: int) -> tuple[int, int]:
        """Of M and of the actor in a round: more where V has learnt, and z means something else than before."""
        if not number or self.learns_vision(number):
            return self.memory_updates, self.actor_updates
        return self.memory_more, self.actor_more

    @property
    def mirrored(self) -> bool:
        return self.mirror and world_class(self.env).MIRROR is not None

    def epochs_of_vision(self, number: int, frames: int) -> int:
        """How many V is trained for in a round in which there are so many frames to learn from."""
        epochs, updates = (
            (self.vision_more, self.vision_updates // 2) if number else (self.vision_epochs, self.vision_updates)
        )
        return max(epochs, -(-updates * VISION_BATCH // frames))

    def vision(self, epochs: int, datasets: tuple[Path, ...]) -> VAESettings:
        """`epochs`: those of all rounds so far."""
        return self.into(
            VAESettings,
            dataset=datasets,
            epochs=epochs,
            batch_size=VISION_BATCH,
            anneal=True,
            keep="last",
            mirror=self.mirrored,
        )

    def memory(self, number: int, datasets: tuple[Path, ...]) -> MDRNNSettings:
        updates, _ = self.updates(number)
        rate = RATE * settled(number) ** 0.5 if number else FIRST_RATE
        return self.into(
            MDRNNSettings,
            dataset=datasets,
            hidden=MDRNNSettings.hidden * self.members,
            epochs=PARTS * (number + 1),
            updates=-(-updates // PARTS),
            batch_size=8,
            seq_len=self.window,
            learning_rate=rate,
            anneal=True,
            keep="last",
            adopt=True,
            mirror=self.mirrored,
        )

    def actor(self, number: int) -> ActorSettings:
        return self.into(
            ActorSettings,
            adopt=True,
            actor_rate=ACTOR_RATE * settled(number),
            updates=sum(self.updates(k)[1] for k in range(number + 1)),
            evaluate_every=0,
        )


def settled(number: int) -> float:
    """The share of the actor's learning rate that is left in a round; M's falls as its square root."""
    return 1 / (1 + number / SETTLING)


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
            Choice(self.args, self.folder, self.done).make()
            self._draw()

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
        train_actor(self.args.actor(number))
        keep_run(own, self.args.logdir)
        manifests = [read_manifest(folder) for folder in dict.fromkeys(datasets)]
        said = {
            "round": number,
            "frames": sum(m.options.get(REPEAT, 1) * e.steps for m in manifests for e in m.episodes),
            "recorded": {kind: [e.score for e in manifest.episodes] for kind, manifest in recorded.items()},
            "digests": {stage: checkpoint.load_parent(own, stage)["digest"] for stage in STAGES},
            "settings": self.args.settings(),
        }
        write_json(self.folder / f"{number:02d}.json", said)
        return said

    def _own(self, number: int) -> Path:
        return self.folder / f"{number:02d}"

    def _record(self, number: int) -> dict[str, Manifest]:
        """The episodes of a round, by kind. What is whole stays as it is: who drove it may have learnt on since."""
        args, recorded = self.args, {}
        common = RecordingSettings(
            env=args.env, options=args.options, seed=args.seed, give_up=args.give_up, threads=args.max_workers
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
            told: dict[str, dict] = {
                "random": {"policy": "brown=0.5,held=0.5", "rollouts": args.random},
                "expert": {"policy": "expert", "rollouts": args.expert, "skip": args.random},
            }
            return {kind: plan for kind, plan in told.items() if plan["rollouts"]}
        first, half = args.random + args.expert + (number - 1) * args.episodes, args.episodes // 2
        clean = {
            "policy": "controller",
            "logdir": args.logdir,
            "val_fraction": 0.0,
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

    def _draw(self) -> None:
        """curve.png."""
        rows = [
            {"frames": said["frames"], **{kind: float(np.mean(v)) for kind, v in said["recorded"].items()}}
            for said in self.done
        ]
        curves(self.folder / "curve.png", rows, "frames", [("clean", "disturbed")], "episodes recorded in each round")


class Choice:
    """Which round's driver is best: the last, and those whose undisturbed episodes in the round after theirs were the
    best, drive the same tracks, which nothing was learnt on."""

    def __init__(self, args: RoundsSettings, folder: Path, done: list[dict]) -> None:
        """`done`: what is said of each round."""
        self.args, self.folder, self.frames = args, folder, done[-1]["frames"]
        scores = {said["round"] - 1: float(np.mean(said["recorded"]["clean"])) for said in done[1:]}
        best = sorted(scores, key=lambda number: -scores[number])[: args.candidates - 1]
        self.candidates = sorted({*best, args.rounds})

    def make(self) -> None:
        """Write chosen.json and `best`."""
        args, path = self.args, self.folder / "chosen.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        drawn = {"seed": args.seed, "episodes": args.selection_episodes, "rounds": self.candidates}
        if {name: said.get(name) for name in drawn} != drawn:
            found = {str(number): self._drive(self.folder / f"{number:02d}") for number in self.candidates}
            returns = {number: values for number, (values, _) in found.items()}
            best = max(returns, key=lambda number: np.mean(returns[number]))
            frames = sum(steps for _, steps in found.values())
            said = {**drawn, "returns": returns, "frames": frames, "best": int(best)}
            write_json(path, said)
        keep_run(self.folder / "best", self.folder / f"{said['best']:02d}")
        means = ", ".join(f"round {number} {np.mean(values):.1f}" for number, values in said["returns"].items())
        print(
            f"{self.frames} frames recorded, and {said['frames']} driven to choose between rounds: {means}; "
            f"next: python test_controller.py --logdir {self.folder / 'best'}"
        )

    def _drive(self, own: Path) -> tuple[list[float], int]:
        """Returns of a round's driver on the tracks that rounds are chosen by, and the frames that took."""
        args, where = self.args, device(self.args.device)
        agent = load_agent(own, "ctrl")
        spec = DriverSpec("agent", own, agent.controller.config_dict())
        parameters, seeds = parameter_vector(agent.controller), selection_seeds(args.seed, args.selection_episodes)
        options = agent.world.get("options", {})
        with (
            Evaluator(official(agent.world["env"]), spec, args.max_workers, where, options) as evaluator,
            tqdm(total=len(seeds), desc=f"round {own.name} on tracks for choosing", unit="episode") as bar,
        ):
            return evaluator.returns([(parameters, seed) for seed in seeds], bar), evaluator.steps


def keep_run(folder: Path, source: Path) -> None:
    """Make `folder` a run by itself, of the checkpoints in the run `source`; they are links, since nobody writes into
    a checkpoint."""
    for stage in STAGES:
        link = make_folder(folder / stage) / "best.tar"
        link.unlink(missing_ok=True)
        os.link(source / stage / "best.tar", link)


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def main() -> None:
    args = RoundsSettings.parse(None, __doc__)
    args.check()
    runs.require_own(args.logdir)
    with locked(make_folder(args.logdir / "rounds"), f"another train.py is at work in {args.logdir}: wait for it"):
        Rounds(args).run()


if __name__ == "__main__":
    run(main)
