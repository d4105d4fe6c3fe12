"""What stage 3 can be told: M's core, head and sizes, how it learns, and settings as others published them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dreamdrive.envs.flags import OfWorld
from dreamdrive.models.catalogue import KINDS, gpt2_sizes
from dreamdrive.utils.argument_types import ALL, count_or_all, learning_rate, natural, natural_float, positive, share
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import Fitting, flag, spellings

if TYPE_CHECKING:
    from dreamdrive.models.world_model import Vision

HALVED_AFTER = 3  # epochs without progress, the learning rate
CORES, HEADS, ENSEMBLE = ("lstm", "cfc", "ncp", "frames", "tokens"), ("mixture", "once", "sequence"), "-ensemble"
SIMULATOR = "simulator"
OF_ALL = ("core", "dataset", "logdir", "noreload", "seed", "device", "track")  # flags that a simulator has, too
ATTENTIVE = ("a transformer, with --core frames or --core tokens", lambda args: args.core in ("frames", "tokens"))
LEFT_OUT = (
    "a transformer, or a head of tokens (--head once or sequence)",
    lambda args: args.core in ("frames", "tokens") or args.head != "mixture",
)
WIRED = ("--core ncp", lambda args: args.core == "ncp")
LAYERED = ("--core ncp, frames or tokens", lambda args: args.core in ("ncp", "frames", "tokens"))
MIXTURE = ("--head mixture", lambda args: args.head == "mixture")  # what alone a flag is for
# Settings by the name of whoever published them; what the command line says goes before
PRESETS: dict[str, dict[str, Any]] = {
    # Micheli et al. 2023, arXiv 2209.00588
    "iris": {
        "core": "tokens",
        "head": "sequence",
        "hidden": 256,
        "layers": 10,
        "attention_heads": 4,
        "context": 20,
        "dropout": 0.1,
        "seq_len": 20,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
    },
    # a bachelor thesis on top of it: two layers of 3,264 wired neurons, all tokens of a frame at once; 103 M weights
    "thesis-ncp": {
        "core": "ncp",
        "head": "once",
        "hidden": 2176,
        "layers": 2,
        "neurons": 3264,
        "seq_len": 20,
        "learning_rate": 1e-4,
    },
    # the same thesis: GPT-2 (Radford et al. 2019), whose folder --gpt2 gives, with its attention and layers frozen
    "gpt2": {
        "core": "tokens",
        "head": "sequence",
        "freeze": ALL,
        "context": 20,
        "dropout": 0.1,
        "seq_len": 20,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
    },
}


@dataclass(frozen=True, kw_only=True)
class MDRNNSettings(Fitting, OfWorld):
    """What stage 3 can be told."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "dataset mirror",
        "M": "preset core head hidden mixtures members layers neurons attention_heads context dropout gpt2 "
        "freeze include_reward",
        "learning": "epochs updates seq_len batch_size learning_rate weight_decay patience",
        "run": "adopt temperature",
    }

    dataset: tuple[Path, ...] | None = flag(
        None, Path, "folders written by stage 1 (default: those V was trained on)", nargs="+"
    )
    include_reward: bool = flag(
        True, help="make the reward part of the loss", names=("--include_reward", "--include-reward"), fixed="reward"
    )
    mirror: bool = flag(
        False, help="learn from all episodes in a mirror, too, where the world is the same there", fixed=True
    )
    preset: str | None = flag(
        None, str, "settings as they were published; other flags go before", choices=sorted(PRESETS)
    )
    hidden: int = flag(256, positive, "R, size of the core, or of all of an ensemble's together", fixed=True)
    core: str = flag(
        "lstm",
        help="what remembers; `simulator` trains nothing: the dream is the simulator itself",
        choices=(*CORES, SIMULATOR),
        fixed=True,
    )
    head: str = flag(
        "mixture",
        help="what foresees the next z: a mixture of Gaussians, or of a V of tokens all of them at once, or one place "
        "after another",
        choices=HEADS,
        fixed=True,
    )
    mixtures: int = flag(
        5, positive, "K, Gaussians in the mixture, or in that of each member", fixed=True, where=MIXTURE
    )
    members: int = flag(
        1,
        positive,
        "LSTMs; several are an ensemble, each of them trained by itself",
        fixed=True,
        where=("--core lstm and --head mixture", lambda args: (args.core, args.head) == ("lstm", "mixture")),
    )
    layers: int = flag(4, positive, "of wired neurons, or blocks of a transformer", fixed=True, where=LAYERED)
    neurons: int = flag(384, positive, "of a layer, R of which are its output", fixed=True, where=WIRED)
    attention_heads: int = flag(4, positive, "of each block of a transformer", fixed="heads", where=ATTENTIVE)
    context: int = flag(32, positive, "W, frames a transformer looks back on", fixed=True, where=ATTENTIVE)
    dropout: float = flag(
        0.0,
        share,
        "what is left out in training: by a transformer in its blocks, of another core's h before letters are foreseen",
        fixed=True,
        where=LEFT_OUT,
    )
    gpt2: Path | None = flag(
        None,
        Path,
        "begin with the blocks of the GPT-2 in this folder (config.json, model.safetensors), of whose sizes M is then",
        where=ATTENTIVE,
    )
    freeze: int = flag(
        0,
        count_or_all,
        "of GPT-2's blocks keep the attention and layers of the first so many, or of `all`, as they are",
        fixed="frozen",
        where=("GPT-2's blocks, with --gpt2", lambda args: args.gpt2 is not None),
    )
    seq_len: int = flag(32, positive, "T, steps of a training window")
    batch_size: int = flag(16, positive, "windows")
    learning_rate: float = flag(1e-3, learning_rate, f"Adam's; halved after {HALVED_AFTER} epochs without progress")
    weight_decay: float = flag(0.0, natural_float, "of the weights of layers (AdamW)", fixed=True)
    patience: int = flag(10, positive, "stop after so many epochs without progress")
    epochs: int = flag(
        30, natural, "train up to this epoch; more than before resumes; 0 keeps M untrained, for the ablation"
    )
    updates: int | None = flag(None, positive, "updates of an epoch (default: those of one pass over the train split)")
    adopt: bool = flag(False, help="resume although V has been trained on since: M continues on its latents of now")
    temperature: float = flag(1.0, natural_float, "of the dream in the strip; 0 for no randomness")

    def check(self) -> None:
        super().check()
        idle = [name for name in self.flags() if self.was_given(name) and name not in OF_ALL]
        if self.core == SIMULATOR and idle:
            flag_of = spellings(self.flags()[idle[0]])[0]
            raise UserError(f"{flag_of} is for an M that learns: leave it away, or give another --core")
        if self.hidden % self.members:
            raise UserError(
                f"--hidden {self.hidden} cannot be shared by {self.members} members: give a multiple of {self.members}"
            )
        if ATTENTIVE[1](self) and self.hidden % self.attention_heads:
            raise UserError(
                f"--hidden {self.hidden} cannot be shared by {self.attention_heads} heads: give a multiple of that, or "
                "other --attention-heads"
            )
        if self.core == "ncp" and self.neurons < self.hidden + 3:
            raise UserError(
                f"{self.hidden} of --neurons {self.neurons} cannot be outputs: give {self.hidden + 3} or more, or a "
                "smaller --hidden"
            )
        if (self.core, self.head) == ("tokens", "mixture"):
            raise UserError("--core tokens foresees tokens, not a mixture: give --head once or --head sequence")

    def with_preset(self) -> Self:
        """These settings with those that a preset or GPT-2's sizes say where the command line does not."""
        said = dict(PRESETS[self.preset]) if self.preset else {}
        if self.gpt2:
            sizes = gpt2_sizes(self.gpt2)
            said |= {"hidden": sizes["hidden"], "layers": sizes["layers"], "attention_heads": sizes["heads"]}
        return replace(self, **{name: value for name, value in said.items() if not self.was_given(name)})

    @property
    def kind(self) -> str:
        """Of M."""
        if self.core == SIMULATOR:
            return SIMULATOR
        return f"{self.core}-{self.head}{'' if self.members == 1 else ENSEMBLE}"

    def config(self, vision: "Vision", action: int, reward_scale: float) -> dict:
        """Sizes of M, for V's latents and action vectors of A numbers; UserError where its head cannot foresee
        them."""
        found: dict[str, Any] = {
            "latent": vision.config.latent,
            "action": action,
            "hidden": self.hidden,
            "reward": self.include_reward,
            "reward_scale": reward_scale,
        }
        if ATTENTIVE[1](self):
            found |= {"heads": self.attention_heads, "context": self.context, "dropout": self.dropout}
            found |= {"layers": self.layers, "frozen": self.freeze}
        if self.core == "ncp":
            found |= {"layers": self.layers, "neurons": self.neurons}
        if self.head == "mixture":
            return {**found, "mixtures": self.mixtures, **({} if self.members == 1 else {"members": self.members})}
        if not vision.alphabet:
            raise UserError(
                f"--head {self.head} foresees tokens, and V of {self.logdir} has none: leave it away, or train a V "
                "with `python trainvae.py --kind fsq`"
            )
        letters = [len(letter) for letter in vision.alphabet]
        found["dropout"] = self.dropout
        return {**found, "letters": letters, "numbers": vision.alphabet[0].shape[1]}


def told(state: dict) -> dict:
    """What a run was told that may not change, of its checkpoint's content."""
    core, head = state.get("kind", next(iter(KINDS["mdrnn"]))).removesuffix(ENSEMBLE).split("-")
    kept = {"mirror": state.get("mirror", False), "weight_decay": state.get("weight_decay", 0.0)}
    return {"core": core, "head": head, "members": 1, **state["config"], **kept}
