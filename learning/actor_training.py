"""A run of stage 4a by actor-critic: what the actor dreams from, how long it learns, how it is scored, kept and
resumed."""

import math
from pathlib import Path
from typing import cast

import numpy as np
import torch

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import open_datasets, with_mirrored
from dreamdrive.driving.dreaming import dream_on
from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.learning.actor_critic import ActorCritic
from dreamdrive.learning.actor_settings import ROW, ActorSettings
from dreamdrive.learning.anchor import Anchor
from dreamdrive.learning.moments import Moments, recorded_moments
from dreamdrive.learning.unfinished import Unfinished
from dreamdrive.learning.watching import Watching
from dreamdrive.models.actor import LAYERS, Actor, ActorConfig, Critic
from dreamdrive.models.catalogue import DECODED
from dreamdrive.models.cloning import averaged
from dreamdrive.models.controller import Controller, parameter_vector
from dreamdrive.models.watcher import Watcher, WatcherConfig
from dreamdrive.models.world_model import WorldModel, require_rewards
from dreamdrive.utils import checkpoint
from dreamdrive.utils.metrics import line, write_csv
from dreamdrive.utils.passes import Pass
from dreamdrive.utils.plots import curves
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.resumed import load_weights
from dreamdrive.utils.seeds import seed_everything, selection_seeds

STAGE = 4
WATCHERS_WIDTH = 32  # channels of its first convolution
AVERAGED = 50  # updates over which the weights that drive are averaged


def untrained(
    args: ActorSettings, latent: int, recurrent: int, world: dict, opposed: tuple[tuple[int, int], ...]
) -> Actor | Watcher:
    """The actor that a run begins with, on latents of Z and states of R numbers."""
    space = world["action_space"]
    if args.features != DECODED:
        return Actor(ActorConfig(latent, recurrent, args.features, args.hidden, args.layers, space, opposed))
    height, width, channels = world["image_shape"]
    config = WatcherConfig(
        (height, width, channels),
        args.memory,
        args.hidden,
        WATCHERS_WIDTH,
        space,
        latent=latent,
        recurrent=recurrent,
        layers=args.layers or LAYERS,
        opposed=opposed,
    )
    return Watcher(config)


class ActorRun:
    """A run, from the beginning or from the content of checkpoint.tar.

    Attributes:
        actor: that learns        learner: it and its critic        average: of the actor's weights, which drives
        history: rows of metrics.csv     best: score of best.tar, in the simulator
    """

    def __init__(
        self,
        args: ActorSettings,
        folder: Path,
        model: WorldModel,
        moments: Moments,
        opposed: tuple[tuple[int, int], ...],
        unit: float,
        state: dict | None,
        clone: Controller | None = None,
    ) -> None:
        """`unit`: what rewards are learnt in, of a run that begins. `clone`: that of `args.init`."""
        require_rewards(model, args.logdir)
        self.args, self.folder, self.model, self.moments = args, folder, model, moments
        self.memory, sizes = model.memory, model.memory.config
        self.device = next(model.memory.parameters()).device
        seed_everything(args.seed, STAGE)
        self.actor = actor = untrained(args, sizes.latent, sizes.hidden, model.world, opposed).to(self.device)
        self.anchor = Anchor(clone.to(self.device)) if clone else None
        if self.anchor and not state:
            assert isinstance(actor, Actor), "see ActorSettings.check"
            generator = torch.Generator(self.device).manual_seed(args.seed)
            left = self.anchor.teach(actor, moments, generator, args.display)
            print(f"the actor begins as {args.init}: {left:.4g} from it")
        critic = Critic.beside(actor.config).to(self.device)
        self.watching = Watching(actor, model.vision) if isinstance(actor, Watcher) else None
        self.learner = ActorCritic(actor, critic, args.how, self.watching)
        self.average = averaged(actor, AVERAGED)
        self.unit, self.history, self.best = unit, [], -math.inf
        if state:
            self.learn_on(state)
            self.unit, self.history, self.best = state["unit"], state["history"], state["best"]
            write_csv(folder / "metrics.csv", self.history)  # which a killed process may have had no time left for
        self.memory.train()  # nothing of it trains; but cuDNN looks back through an LSTM in this mode only

    @property
    def updates(self) -> int:
        """So far."""
        return ROW * len(self.history)

    @property
    def driver(self) -> Actor | Watcher:
        return cast(Actor | Watcher, self.average.module)

    def run(self, evaluator: Evaluator) -> None:
        """Learn up to update `args.updates`."""
        args, left = self.args, self.args.updates - self.updates
        args.write(self.folder)
        frames = self.history[-1]["frames"] if self.history else 0  # of the simulator, before this command
        with Bar(
            total=max(left, 0), desc="actor-critic", unit="update", disable=not args.display, dynamic_ncols=True
        ) as bar:
            unfinished = Unfinished("ctrl", ActorEpoch(self), args, evaluator)
            while self.updates < args.updates:
                with unfinished.epoch() as begun:
                    row = self._learn(bar, begun)
                    done = self.updates + ROW
                    due = args.evaluate_every and (done % args.evaluate_every < ROW or done >= args.updates)
                    row["simulator"] = self.score(evaluator) if due else None
                    row["frames"] = frames + evaluator.steps
                    self.history.append(row)
                    self._keep()
                if due:
                    bar.write(line(row))

    def learn_on(self, learnt: dict) -> None:
        load_weights(self.actor, learnt["actor"])
        self.learner.load_state_dict(learnt["learner"])
        load_weights(self.average, learnt["average"])

    def score(self, evaluator: Evaluator) -> float:
        """The driver's mean return in the simulator, always on the same seeds."""
        seeds = evaluator.different(selection_seeds(self.args.seed, self.args.selection_episodes))
        parameters = parameter_vector(self.driver)
        return float(np.mean(evaluator.returns([(parameters.cpu(), seed) for seed in seeds])))

    def _learn(self, bar: Bar, begun: Pass) -> dict:
        """The next ROW updates; their row."""
        args, mean = self.args, begun.mean
        rng = seed_everything(args.seed, STAGE, len(self.history) + 1)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**31)))
        self.learner.slow_down(args.share_left(self.updates), self.updates < args.critic_first)
        bar.update(begun.done)
        for _ in begun.of(range(ROW), generator):
            mean.add(self._update(generator), 1)
            bar.update(1)
        bar.set_postfix(reward=f"{mean.result()['reward']:.3f}")
        return {"updates": self.updates + ROW, **mean.result()}

    def _update(self, generator: torch.Generator) -> dict:
        args, learner = self.args, self.learner
        learner.begin(args.dreams, generator)
        index = self.moments.drawn(args.dreams, args.early, generator)
        if self.watching:
            self.watching.begin(*self.moments.before(index, args.burn_in))
        begun = self.moments.begin(index)
        with torch.set_grad_enabled(learner.through):
            dreamt = dream_on(self.memory, begun, args.horizon, learner.act, args.temperature, generator, mortal=False)
        survival = 1 - dreamt.ending
        weight = torch.cat([torch.ones_like(survival[:1]), survival[:-1].detach()]).cumprod(0)
        more = None
        if self.anchor and args.anchor:
            actor = cast(Actor, self.actor)
            more = args.anchor * self.anchor.distance(actor, dreamt.z[:-1].detach(), dreamt.h[:-1].detach())
        reward = dreamt.reward / self.unit
        learnt = learner.learn(dreamt.z, dreamt.h, dreamt.action, reward, survival, weight, more)
        self.average.update_parameters(learner.actor)
        learnt["reward"] = learnt["reward"] * self.unit
        return {**learnt, "range": learner.range * self.unit}

    def _keep(self) -> None:
        """Write what was learnt up to this row."""
        score = self.history[-1]["simulator"]
        common = {"updates": self.updates, "settings": self.args.fixed()}
        if not self.args.evaluate_every or (score is not None and score > self.best):
            self.best = self.history[-1]["reward"] if score is None else score
            critic = self.learner.slow.state_dict()
            self._save("best.tar", self.driver.state_dict(), **common, best=self.best, critic=critic, unit=self.unit)
        self._save(
            "checkpoint.tar",
            self.driver.state_dict(),
            **common,
            actor=self.learner.actor.state_dict(),
            average=self.average.state_dict(),
            learner=self.learner.state_dict(),
            unit=self.unit,
            history=self.history,
            best=self.best,
        )
        write_csv(self.folder / "metrics.csv", self.history)

    def _save(self, name: str, weights: dict, **more) -> None:
        config = self.learner.actor.config_dict()
        checkpoint.save(self.folder / name, "ctrl", config, weights, self.model.parents, **more)

    def plot(self) -> None:
        """fitness.png."""
        shown = [("reward",), ("critic_loss",), *([("simulator",)] if self.args.evaluate_every else [])]
        curves(self.folder / "fitness.png", self.history, "updates", shown, "actor and critic in the dream")


class ActorEpoch:
    """ROW updates of a run, as learning/unfinished.py keeps them."""

    def __init__(self, run: ActorRun) -> None:
        self.run, self.folder, self.history, self.learn_on = run, run.folder, run.history, run.learn_on

    @property
    def best(self) -> float:
        return self.run.best

    def described(self) -> dict:
        run = self.run
        config, weights = run.learner.actor.config_dict(), run.driver.state_dict()
        return {"config": config, "model": weights, "parents": run.model.parents, "settings": run.args.fixed()}

    def learnt(self) -> dict:
        """What `learn_on` takes."""
        run = self.run
        parts = {"actor": run.actor, "learner": run.learner, "average": run.average}
        return {name: part.state_dict() for name, part in parts.items()}


def moments_of(args: ActorSettings, model: WorldModel) -> tuple[Moments, float]:
    """Where dreams of the run may begin: the recorded moments of `args.dataset`, or of what M was trained on; and the
    size of the rewards there."""
    learnt = checkpoint.load_parent(args.logdir, "mdrnn")
    datasets = open_datasets(args.dataset or learnt["datasets"], model.world, str(checkpoint.path(args.logdir, "vae")))
    if learnt.get("mirror"):
        datasets = with_mirrored(datasets)
    where = next(model.memory.parameters()).device
    cache_latents(args.logdir, model.vision, model.parents["vae"], datasets, where)
    data = load_sequences(args.logdir, model.vision, model.parents["vae"], datasets)
    return recorded_moments(data, model.memory).to(where), data.reward_size()
