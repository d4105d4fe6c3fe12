"""An example of another learner: PPO of Stable-Baselines3 on Nocturne's feature vectors, against constant velocity.

Reads   folders of scenes, to train in (--scenes) and to be scored in (--unseen)
Writes  <logdir>/ppo.zip, a section of docs/results/nocturne.md

    python -m benchmarks.ppo --scenes datasets/scenes --unseen datasets/unseen --minutes 8

PPO (Schulman et al. 2017) sees the egos' own numbers and, pooled by their maximum, those of the objects and of the
nearest road points. It begins with small pushes around constant velocity.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from torch import Tensor, nn

from dreamdrive.benchmarks.answering import rate
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.driving.driver import Driver, drive
from dreamdrive.driving.policies import make_policy
from dreamdrive.envs import World, make, world_class
from dreamdrive.envs.stable_baselines import VecWorld
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.script import run
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.settings import RunFolder, command_line, parser

EGO, OBJECTS, ROADS = 10, (16, 13), (1000, 13)  # of a feature vector: numbers, and how many things have how many
NEAREST = 32  # road points that are looked at
HIDDEN, ROLLOUT, BATCH, EPOCHS = 64, 64, 256, 4
TOGETHER = 25  # episodes scored as one batch
COLUMNS = {"goals, %": "goal_rate", "within 1 m, %": "goal_rate_position", "collisions, %": "collision_rate"}


class Sets(BaseFeaturesExtractor):
    """Features (B, 13470) as (B, 3 HIDDEN): the ego, the objects, the road points."""

    def __init__(self, space) -> None:
        super().__init__(space, 3 * HIDDEN)
        self.ego, self.objects, self.roads = (
            nn.Sequential(nn.Linear(width, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
            for width in (EGO, OBJECTS[1], ROADS[1])
        )

    def forward(self, flat: Tensor) -> Tensor:
        flat = flat.sign() * flat.abs().log1p()  # metres and radians alike
        ego, objects, roads, _ = flat.tensor_split(np.cumsum([EGO, np.prod(OBJECTS), np.prod(ROADS)]).tolist(), 1)
        objects, roads = objects.unflatten(1, OBJECTS), roads.unflatten(1, ROADS)[:, :NEAREST]
        return torch.cat([self.ego(ego), self.objects(objects).amax(1), self.roads(roads).amax(1)], 1)


class Learnt(Driver):
    """What PPO has learnt drives, without its noise."""

    def __init__(self, model: PPO, world: VecWorld) -> None:
        self.model, self.world = model, world

    def see(self, obs: Tensor) -> None:
        self.obs = obs.numpy()

    def choose(self) -> Tensor:
        return self.world.action(self.model.predict(self.obs, deterministic=True)[0])


class Clock(BaseCallback):
    """Ends a training after so many seconds of the processor, which on a machine that does nothing else are seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.process_time() + seconds

    def _on_step(self) -> bool:
        return time.process_time() < self.end


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    RunFolder.add_flags(p)
    p.add_argument("--scenes", type=Path, required=True, help="folder of scenes to train in")
    p.add_argument("--unseen", type=Path, required=True, help="folder of scenes to be scored in")
    p.add_argument("--minutes", type=positive_float, default=8.0, help="of training, of one processor core")
    p.add_argument("--copies", type=positive, default=16, help="scenes at once")
    p.add_argument("--episodes", type=positive, default=200, help="episodes to score")
    p.add_argument("--out", type=Path, default=Path("docs/results/nocturne.md"), help="document to write into")
    return p.parse_args()


def world_of(scenes: Path, copies: int, **options) -> World:
    return make("nocturne", num=copies, scenes=str(scenes), observation="features", **options)


def train(args: argparse.Namespace) -> tuple[PPO, VecWorld]:
    """PPO, after as many steps as there is time for."""
    torch.manual_seed(0)
    copies = VecWorld(world_of(args.scenes, args.copies), seed=0)
    model = PPO(
        "MlpPolicy",
        VecNormalize(VecMonitor(copies), norm_obs=False),
        n_steps=ROLLOUT,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        learning_rate=5e-4,
        gamma=0.98,
        policy_kwargs={"features_extractor_class": Sets, "net_arch": [HIDDEN], "log_std_init": -2.0},
        device="cpu",
        seed=0,
        verbose=1,
    )
    model.learn(10**9, callback=Clock(60 * args.minutes))
    return model, copies


def scored(world: World, driver: Driver, seeds: Sequence[int]) -> list[dict[str, float]]:
    """What became of the episodes of `seeds`, so many copies of the world at a time."""
    found = []
    for k in Bar(range(0, len(seeds), world.num), unit="batch"):
        some = seeds[k : k + world.num]
        total = torch.zeros(world.num)
        for moment in drive(world, driver, some, [np.random.default_rng([seed, 1]) for seed in some]):
            total += moment.step.reward if moment.step is not None else 0.0
        outcome = {**world.outcome(), "return": total}
        found += [{name: float(values[b]) for name, values in outcome.items()} for b in range(world.num)]
    return found


def main() -> None:
    args = parse_args()
    model, copies = train(args)
    model.save(make_folder(args.logdir) / "ppo.zip")
    seeds = evaluation_seeds(0, args.episodes - args.episodes % TOGETHER or TOGETHER)
    unseen = world_of(args.unseen, TOGETHER, restart=False, **world_class("nocturne").SCORED_WITH)
    drivers: dict[str, Driver] = {
        "constant velocity": make_policy("constant", unseen),
        f"PPO, {args.minutes:g} minutes of one core, {model.num_timesteps:,} steps": Learnt(model, copies),
    }
    lines = []
    for name, driver in drivers.items():
        episodes = scored(unseen, driver, seeds)
        values = {what: np.array([e[what] for e in episodes]) for what in (*COLUMNS.values(), "return")}
        lines.append([name, *(rate(values[what]) for what in COLUMNS.values()), f"{values['return'].mean():.2f}"])
    text = table(["driver", *COLUMNS, "return"], lines)
    write_section(args.out, "ppo", f"{text}\n\n{circumstances()}\n\n```\n{command_line()}\n```\n")
    print(text)


if __name__ == "__main__":
    run(main)
