"""What `train.py` can be told, and what it tells each stage in a round."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from dreamdrive.envs import flags, world_class
from dreamdrive.learning.actor_settings import RATIO, THROUGH, ActorSettings
from dreamdrive.learning.cloning_settings import CloneSettings
from dreamdrive.learning.memory_settings import CORES, HEADS, MDRNNSettings
from dreamdrive.learning.vision_settings import KIND_NAMES, VAESettings
from dreamdrive.models.catalogue import TOKENS
from dreamdrive.utils.argument_types import natural, natural_float, positive, positive_float, share
from dreamdrive.utils.cores import usable
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import WORKERS, RunFolder, Spread, flag

VISION_BATCH = 64
PARTS = 3  # epochs that M's updates of a round are counted in, each with a lower learning rate
FIRST_RATE, RATE = 1.5e-3, 7e-4  # M's, in the first round and in those after it, where nothing else lowers it
ACTOR_RATE = 7e-4
CLONES_WIDTH = 256
SETTLES = 2  # times as many updates of M as in a round in which V does not learn, after the last one
SETTLED_DISCOUNT = 0.995  # of the actor then: who looks further ahead drives more carefully (docs/results/dream.md)
SETTLING = 8  # rounds after which the actor's learning rate is half of what it was, and M's 0.7 of it


@dataclass(frozen=True, kw_only=True)
class Flags(RunFolder, flags.WorldSettings, Spread):
    """What it can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "rounds": "env rounds random expert expert_noise episodes action_noise give_up mirror selection_episodes "
        "candidates",
        "V": "kind tokens latent grid colour_balance moving_balance beta fine_shades returns vision_epochs "
        "vision_every vision_last vision_more vision_updates",
        "M": "core head members dropout window memory_updates memory_more",
        "actor": "clone actor_updates actor_more actor_settles gradient horizon temperature discount",
        "run": "seed device max_workers",
    }

    env: str = flag("carracing", help="world to learn, as stage 1 takes it", fixed=True)
    rounds: int = flag(20, natural, "rounds after the first one; more than before resumes")
    random: int = flag(64, natural, "random episodes to begin with", fixed=True)
    expert: int = flag(0, natural, "episodes of the world's expert to begin with", fixed=True)
    expert_noise: float = flag(
        0.0,
        natural_float,
        "of these, as stage 1 takes --action-noise: the expert then shows how to come back, too",
        fixed=True,
        where=("an expert's episodes, with --expert", lambda args: bool(args.expert)),
    )
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
    dropout: float = flag(
        0.0,
        share,
        "of M, as trainmdrnn.py takes it",
        fixed=True,
        where=("a head of tokens, with --head once or sequence", lambda args: args.head != "mixture"),
    )
    window: int = flag(32, positive, "steps M is trained to look back through", fixed=True)
    memory_updates: int = flag(9000, positive, "of M in rounds in which V learns", fixed=True)
    memory_more: int = flag(3000, positive, "of M in every other", fixed=True)
    clone: int = flag(
        0,
        natural,
        "epochs of a clone of the expert's episodes, as which the actor begins; 0: it begins as nothing",
        fixed=True,
    )
    actor_updates: int = flag(500, positive, "of the actor in rounds in which V learns", fixed=True)
    actor_more: int = flag(350, positive, "of the actor in every other", fixed=True)
    actor_settles: int = flag(
        1800,
        natural,
        "updates of the actor after the last round, over which its learning rate falls to a tenth; before them M "
        "learns on, too; 0: there is no more than rounds",
    )
    gradient: str = flag(
        ActorSettings.gradient,
        help="of the actor, as traincontroller.py takes it",
        choices=(THROUGH, RATIO),
        fixed=True,
    )
    horizon: int = flag(12, positive, "steps of a dream", fixed=True)
    temperature: float = flag(1.0, natural_float, "of the dream", fixed=True)
    discount: float = flag(ActorSettings.discount, positive_float, "gamma, of a step of the dream", fixed=True)
    selection_episodes: int = flag(16, positive, "that rounds are chosen by in the end")
    candidates: int = flag(4, positive, "rounds that are compared then: the last, and those that recorded best")
    seed: int = flag(0, natural, "decides everything random in the run")
    device: str = flag("auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    max_workers: int = flag(usable(), positive, "processes that drive the simulator", names=WORKERS)

    def check(self) -> None:
        super().check()
        self.check_world(self.env)
        if self.head != "mixture" and self.kind == "vae":
            raise UserError(
                f"--head {self.head} foresees tokens, and a V of --kind vae has none: leave it away, or give --kind fsq"
            )
        if self.clone and not self.expert:
            raise UserError(f"--clone {self.clone} is of an expert's episodes, and --expert is 0: give how many")


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(Flags):
    """And what it tells each stage."""

    def check(self) -> None:
        super().check()
        self.memory(0, ()).check()

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

    def cloning(self, dataset: Path) -> CloneSettings:
        """Of the expert's episodes. It is scored by one of its own, which nothing hangs on."""
        usual = {name: getattr(CloneSettings, name) for name in ("temperature", "horizon", "action_noise")}
        return self.into(
            CloneSettings,
            dataset=(dataset,),
            hidden=CLONES_WIDTH,
            epochs=self.clone,
            evaluate_every=self.clone,
            n_samples=1,
            **usual,
        )

    def actor(self, number: int) -> ActorSettings:
        """In the first round the actor drives as the clone does, while the critic learns: by a critic that knows
        nothing yet it would only forget. Later there is no clone: V is another one."""
        cloned = self.clone and not number
        return self.into(
            ActorSettings,
            adopt=True,
            init=self.logdir / "bc" / "best.tar" if cloned else None,
            critic_first=self.updates(0)[1] if cloned else 0,
            actor_rate=ACTOR_RATE * settled(number),
            updates=sum(self.updates(k)[1] for k in range(number + 1)),
            evaluate_every=0,
        )

    def settling(self, number: int, datasets: tuple[Path, ...], logdir: Path) -> tuple[MDRNNSettings, ActorSettings]:
        """M and the actor in the run `logdir`, which goes on from round `number` on the same episodes."""
        memory, actor = self.memory(number, datasets), self.actor(number)
        updates, settles = SETTLES * self.memory_more // PARTS, self.actor_settles
        memory = replace(memory, logdir=logdir, epochs=memory.epochs + PARTS, updates=updates)
        return memory, replace(
            actor, logdir=logdir, updates=actor.updates + settles, settle=settles, discount=SETTLED_DISCOUNT
        )


def settled(number: int) -> float:
    """The share of the actor's learning rate that is left in a round; M's falls as its square root."""
    return 1 / (1 + number / SETTLING)
