"""M: an LSTM whose output is a mixture of diagonal Gaussians over the next latent, with reward and termination (Ha &
Schmidhuber 2018, section 2.2); or several of them, each trained by itself, whose mixtures are taken for one."""

import math
from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamdrive.models.attention import AttentionSizes
from dreamdrive.models.attention_cores import FramesCore
from dreamdrive.models.cores import CfCCore, Core, LSTMCore, NCPCore, NCPSizes
from dreamdrive.models.world_model import Imagined, Memory, State, Steps


@dataclass(frozen=True)
class MDRNNConfig:
    """Sizes of M.

    Fields:
        latent: Z
        action: A, the length of the action vector (n for a discrete space, one-hot)
        hidden: R
        mixtures: K
        reward: whether the reward is part of the loss
        reward_scale: what rewards are learnt in units of, their spread where M was trained
    """

    latent: int
    action: int
    hidden: int = 256
    mixtures: int = 5
    reward: bool = True
    reward_scale: float = 1.0

    @property
    def components(self) -> int:
        """Gaussians in what is foreseen."""
        return self.mixtures

    def __post_init__(self) -> None:
        for name in ("latent", "action", "hidden", "mixtures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")


@dataclass
class Prediction:
    """What M expects of the next step.

    Fields:
        logpi: (..., K) log weights of the mixture, normalised
        mu, logsigma: (..., K, Z) its components, each over the whole latent vector
        reward: (...)
        terminal: (...) logit of the episode ending
    """

    logpi: Tensor
    mu: Tensor
    logsigma: Tensor
    reward: Tensor
    terminal: Tensor


class Mixture(Memory):
    """M that foresees a mixture of Gaussians."""

    config: MDRNNConfig

    @abstractmethod
    def predict(self, h: Tensor) -> Prediction:
        """h (..., R) -> what comes next."""

    @property
    def rewarded(self) -> bool:
        return self.config.reward

    @property
    def draws(self) -> tuple[int, int]:
        return self.config.components + 1, self.config.latent

    def noise(self, uniform: Tensor, normal: Tensor, copies: int = 1) -> "Noise":
        uniform = uniform.clamp_min(1e-10)
        gumbel = -(-uniform[:, :-1].log()).log()
        return Noise(gumbel.repeat(copies, 1), normal.repeat(copies, 1), uniform[:, -1].repeat(copies))

    def sample(self, state: State, temperature: float, noise: "Noise") -> Imagined:
        pred = self.predict(state.h)
        ending = pred.terminal.sigmoid()
        limit = 0.5 if temperature == 0 else noise.uniform
        z = sample_mixture(pred, temperature, noise)
        return Imagined(z, pred.reward * self.config.reward_scale, ending, ending > limit)

    def likeliest(self, state: State) -> Tensor:
        """The mean of the component that weighs most."""
        pred = self.predict(state.h)
        index = pred.logpi.argmax(-1)[:, None, None].expand(-1, 1, pred.mu.shape[-1])
        return pred.mu.gather(1, index)[:, 0]

    def config_dict(self) -> dict:
        return asdict(self.config)


class OneMixture(Mixture, Core):
    """What a core's h says of the next step, by one layer."""

    sizes: ClassVar[type[MDRNNConfig]] = MDRNNConfig

    def __init__(self, config: MDRNNConfig) -> None:
        super().__init__()
        self.config = config
        self.make_core()
        self.head = nn.Linear(config.hidden, config.mixtures * (2 * config.latent + 1) + 2)

    def predict(self, h: Tensor) -> Prediction:
        mixtures, latent = self.config.mixtures, self.config.latent
        sizes = [mixtures * latent, mixtures * latent, mixtures, 1, 1]
        mu, logsigma, logits, reward, terminal = self.head(h).float().split(sizes, -1)
        # Floor and ceiling on sigma keep the likelihood finite on constant latents and the dream bounded.
        logsigma = logsigma.clamp(-7.0, 3.0).unflatten(-1, (mixtures, latent))
        return Prediction(
            logits.log_softmax(-1),
            mu.unflatten(-1, (mixtures, latent)),
            logsigma,
            reward.squeeze(-1),
            terminal.squeeze(-1),
        )

    def forward(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Prediction, State]:
        """z (B, T, Z), action (B, T, A) -> prediction of steps 1..T [B, T, ...], and the state after the last."""
        h, state = self.observe(z, action, state)
        return self.predict(h), state

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        pred, _ = self(steps.z, steps.action)
        reward = steps.reward / self.config.reward_scale
        return mdrnn_loss(pred, steps.z_next, reward, steps.terminal, steps.mask, self.config.reward)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(cls.sizes(**config))


class MDRNN(LSTMCore, OneMixture):
    """p(z', reward, terminal | z, action, h)."""

    kind = "lstm-mixture"


class CfCMixture(CfCCore, OneMixture):
    """The same by another core."""

    kind = "cfc-mixture"


@dataclass(frozen=True)
class NCPMixtureConfig(MDRNNConfig, NCPSizes):
    """Sizes of wired neurons whose output is a mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.hidden)


class NCPMixture(NCPCore, OneMixture):
    """The same by wired neurons."""

    kind = "ncp-mixture"
    sizes = NCPMixtureConfig


@dataclass(frozen=True)
class FramesMixtureConfig(MDRNNConfig, AttentionSizes):
    """Sizes of a transformer over frames whose output is a mixture; `hidden` is its width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.hidden)


class FramesMixture(FramesCore, OneMixture):
    """The same by a transformer over frames."""

    kind = "frames-mixture"
    sizes = FramesMixtureConfig


@dataclass(frozen=True)
class EnsembleConfig(MDRNNConfig):
    """Sizes of an ensemble.

    Fields:
        hidden: R, of all members together, each of which has its share
        mixtures: K, of each member
        members: how many there are
    """

    members: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 1 or self.hidden % self.members:
            raise ValueError(f"hidden must be a multiple of members, not {self.hidden} of {self.members}")

    @property
    def components(self) -> int:
        return self.members * self.mixtures

    def member(self) -> MDRNNConfig:
        """The sizes of each member."""
        of_all = {**asdict(self), "hidden": self.hidden // self.members}
        del of_all["members"]
        return MDRNNConfig(**of_all)


class Ensemble(Mixture):
    """Several MDRNNs that differ in the weights they began with, each trained by its own loss.

    What they foresee is the mixture of all their mixtures (Lakshminarayanan et al. 2017, arXiv 1612.01474), so that
    where they disagree dreams go apart: a step is drawn from one of them, another at every step (TS1 in Chua et al.
    2018, arXiv 1805.12114). Rewards and probabilities of ending are their means; h is that of all.
    """

    kind = "lstm-mixture-ensemble"
    sizes = EnsembleConfig
    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(MDRNN(config.member()) for _ in range(config.members))

    def initial(self, num: int) -> State:
        return self._joined([member.initial(num) for member in self._members])

    def observe(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        states = self._apart(self.initial(len(z)) if state is None else state)
        after = [member.observe(z, action, own) for member, own in zip(self._members, states, strict=True)]
        return torch.cat([h for h, _ in after], -1), self._joined([state for _, state in after])

    def predictions(self, h: Tensor) -> list[Prediction]:
        """h (..., R) -> what each member expects."""
        parts = h.chunk(self.config.members, -1)
        return [member.predict(own) for member, own in zip(self._members, parts, strict=True)]

    def predict(self, h: Tensor) -> Prediction:
        each = self.predictions(h)
        ending = torch.stack([pred.terminal.sigmoid() for pred in each]).mean(0)
        return Prediction(
            torch.cat([pred.logpi for pred in each], -1) - math.log(len(each)),
            torch.cat([pred.mu for pred in each], -2),
            torch.cat([pred.logsigma for pred in each], -2),
            torch.stack([pred.reward for pred in each]).mean(0),
            ending.logit(eps=1e-6),
        )

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """Means over the members."""
        losses = [member.loss(steps) for member in self._members]
        return {name: torch.stack([found[name] for found in losses]).mean() for name in losses[0]}

    @classmethod
    def from_config(cls, config: dict) -> "Ensemble":
        return cls(EnsembleConfig(**config))

    @property
    def _members(self) -> list[MDRNN]:
        return cast(list[MDRNN], list(self.members))

    def _joined(self, states: list[State]) -> State:
        h, c = (torch.cat(parts, -1) for parts in zip(*states, strict=True))
        return State(h, {"c": c})

    def _apart(self, state: State) -> list[State]:
        parts = zip(*(part.chunk(self.config.members, -1) for part in state), strict=True)
        return [State(h, {"c": c}) for h, c in parts]


def mixture_log_likelihood(pred: Prediction, z_next: Tensor) -> Tensor:
    """log p(z' | ...) in nats, summed over the latent vector: z_next (..., Z) -> (...). Bishop 1994, eq. 21 and 24."""
    scaled = (z_next.unsqueeze(-2) - pred.mu) * (-pred.logsigma).exp()  # (..., K, Z)
    # (..., K)
    component = -0.5 * scaled.square().sum(-1) - pred.logsigma.sum(-1) - 0.5 * math.log(2 * math.pi) * z_next.shape[-1]
    return torch.logsumexp(pred.logpi + component, -1)


@dataclass
class Noise:
    """All that is random in one dream step.

    Fields:
        gumbel: (B, K) chooses the component       normal: (B, Z) moves z within it       uniform: (B,) decides whether
            the episode ends
    """

    gumbel: Tensor
    normal: Tensor
    uniform: Tensor


def sample_mixture(pred: Prediction, temperature: float, noise: Noise) -> Tensor:
    """z' (B, Z) drawn at `temperature` tau: weights pi^(1/tau), sigma * sqrt(tau) (Ha & Eck 2017, eq. 8); tau = 0 takes
    the likeliest component's mean."""
    # Gumbel-max: argmax draws from the softmax
    score = pred.logpi if temperature == 0 else pred.logpi / temperature + noise.gumbel
    index = score.argmax(-1)[:, None, None].expand(-1, 1, pred.mu.shape[-1])
    mu = pred.mu.gather(1, index).squeeze(1)
    if temperature == 0:
        return mu
    sigma = pred.logsigma.gather(1, index).squeeze(1).exp()
    return torch.addcmul(mu, sigma, noise.normal, value=math.sqrt(temperature))


def mdrnn_loss(
    pred: Prediction, z_next: Tensor, reward: Tensor, terminal: Tensor, mask: Tensor, include_reward: bool
) -> dict[str, Tensor]:
    """Mean over the steps where mask (B, T) is 1 of: nll in nats per frame, squared error of the reward, cross-entropy
    of the end.

    The sum is divided by Z + 2, the number of terms, as in the reference implementation.
    """

    def mean(value: Tensor) -> Tensor:
        return (value * mask).sum() / mask.sum()

    nll = mean(-mixture_log_likelihood(pred, z_next))
    reward_mse = mean((pred.reward - reward).square())
    terminal_bce = mean(F.binary_cross_entropy_with_logits(pred.terminal, terminal, reduction="none"))
    total = nll + terminal_bce + (reward_mse if include_reward else 0.0)
    return {"loss": total / (z_next.shape[-1] + 2), "nll": nll, "reward_mse": reward_mse, "terminal_bce": terminal_bce}
