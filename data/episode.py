"""An episode in memory, and how the manifest lists it.

In an episode of T steps `action[t]` is chosen on seeing `obs[t]` and produces `reward[t]`, `terminated[t]`,
`truncated[t]` and `obs[t + 1]`:

    obs         o0  o1  o2  ...  oT      T + 1 frames
    action      a0  a1  ...  a(T-1)      T
"""

from dataclasses import dataclass

import numpy as np

from dreamdrive.data.manifest import EpisodeEntry, Manifest, split
from dreamdrive.utils.spaces import ActionSpace

STEP_COLUMNS = ("action", "expert_action", "reward", "terminated", "truncated")
TAUGHT_COLUMNS = ("clone_action", "demonstration")  # of steps
EPISODE_COLUMNS = ("length", "episode", "seed", "policy")
FLAGS = ("terminated", "truncated", "demonstration")


@dataclass
class Episode:
    """One episode of T steps; see the drawing above for what goes with what.

    Fields:
        obs: uint8 (T + 1, H, W, C), or float32 (T + 1, S)
        action: float32 (T, A) or int64 (T,)
        expert_action: like action; `unknown_action` where nobody knows it, as in shards
        reward: float32 (T,)
        terminated, truncated: bool or uint8 (T,)
        index: number of the episode in the dataset
        seed: the simulator's seed
        policy: index into the manifest's `policies`
        held_out: whether it happened in a place kept for validation; None if the split is by number, or on an episode
            read from a shard
        clone_action: like action, and demonstration: bool or uint8 (T,), of an episode that was taught; else None
    """

    obs: np.ndarray
    action: np.ndarray
    expert_action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    index: int
    seed: int
    policy: int
    held_out: bool | None = None
    clone_action: np.ndarray | None = None
    demonstration: np.ndarray | None = None

    @property
    def step_columns(self) -> tuple[str, ...]:
        return STEP_COLUMNS if self.clone_action is None else STEP_COLUMNS + TAUGHT_COLUMNS

    def check(self) -> None:
        """Raise ValueError unless every array has the type and the length it must have."""
        steps = len(self.action)
        if steps < 1:
            raise ValueError(f"episode {self.index} has no steps")
        if len(self.obs) != steps + 1:
            raise ValueError(
                f"obs must have one frame more than action: {len(self.obs)} != {steps} + 1 in episode {self.index}"
            )
        if (self.obs.dtype, self.obs.ndim) not in ((np.uint8, 4), (np.float32, 2)):
            raise ValueError(
                f"obs must be uint8 (T + 1, H, W, C) or float32 (T + 1, S), got {self.obs.dtype} {self.obs.shape} in "
                f"episode {self.index}"
            )
        if (self.action.dtype, self.action.ndim) not in ((np.float32, 2), (np.int64, 1)):
            raise ValueError(
                f"action must be float32 (T, A) or int64 (T,), got {self.action.dtype} {self.action.shape} in episode "
                f"{self.index}"
            )
        for name in ("expert_action", "clone_action"):
            values = getattr(self, name)
            if values is not None and (values.dtype, values.shape) != (self.action.dtype, self.action.shape):
                raise ValueError(
                    f"{name} must be like action {self.action.shape}, got {values.shape} in episode {self.index}"
                )
        for name in (
            "reward",
            "terminated",
            "truncated",
            *(["demonstration"] if self.clone_action is not None else []),
        ):
            if getattr(self, name).shape != (steps,):
                raise ValueError(
                    f"{name} must have one value a step: {getattr(self, name).shape} != ({steps},) in episode "
                    f"{self.index}"
                )
        if not all(
            values.dtype == np.uint8 or np.isfinite(values).all() for values in (self.reward, self.action, self.obs)
        ):
            raise ValueError(f"obs, reward and action must be finite numbers; they are not in episode {self.index}")
        if (self.terminated[:-1] | self.truncated[:-1]).any():
            raise ValueError(
                f"an episode ends where terminated or truncated is set; episode {self.index} goes on after it"
            )


def unknown_action(space: ActionSpace) -> np.ndarray:
    """What stands in a shard, (A,) or (), for the action of an expert that was not asked. In memory a mask says where
    that is; nothing else relies on these values."""
    return np.full(space.shape, -1 if space.discrete else np.nan, space.dtype)


def known_actions(expert_action: np.ndarray) -> np.ndarray:
    """(T,) bool: where an expert's actions (T, A) or (T,), as a shard holds them, are known."""
    return ~np.isnan(expert_action).any(1) if expert_action.ndim == 2 else expert_action >= 0


def episode_entry(episode: Episode, manifest: Manifest) -> EpisodeEntry:
    """How the manifest lists `episode`."""
    part = (
        split(episode.index, manifest.val_fraction)
        if episode.held_out is None
        else "val"
        if episode.held_out
        else "train"
    )
    return EpisodeEntry(
        episode.index,
        episode.seed,
        manifest.policies[episode.policy],
        len(episode.action),
        float(episode.reward.sum(dtype=np.float64)),
        part,
    )
