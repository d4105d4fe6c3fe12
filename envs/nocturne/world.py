"""Nocturne as a world: one ego a copy is driven, everybody else replays the log; a frame is what the ego sees, as a
cone image or as Nocturne's feature vector.

Reward and ends are those of Nocturne's own environment (Vinitsky et al. 2022): every step (0.2 (1 - d / d0) + 0.2 (1 -
|dv| / 40) + 0.2 (1 - |dh| / 2 pi)) / 10, with d the distance to the goal (d0 at the start), dv and dh the differences
to the speed and heading wanted there, and 8 more at the goal (within 1 m, 1 m/s and 0.3 rad); an episode ends there, at
a collision with an object or a road edge, or after `max_steps`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamdrive.envs import NOISE, Step, World, WorldSpec
from dreamdrive.envs.catalogue import (
    CONE_OBSERVATIONS,
    CONE_SIZES,
    NOCTURNE_ACTIONS,
    NOCTURNE_DYNAMICS,
    VIEW_DIST,
    WARMUP,
)
from dreamdrive.envs.nocturne.actions import ActionGrid
from dreamdrive.envs.nocturne.dynamics import make_dynamics
from dreamdrive.envs.nocturne.feature_vector import WIDTH, features
from dreamdrive.envs.nocturne.pool import FolderPool, make_pool
from dreamdrive.envs.nocturne.scene import DT
from dreamdrive.envs.nocturne.simulator import GOAL_DISTANCE, LOG_END, ROAD_EDGE, VEHICLE, Simulator, wrap
from dreamdrive.envs.noise import ObservationNoise
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.keys import Keys, NumberKeys, Push, usual_keys
from dreamdrive.utils.spaces import ActionSpace

FURTHEST = 1000.0  # metres that a cone image may reach
ANCHOR = 0.75  # of a cone image's height, where the ego is: there is nothing to see behind it
GOAL_REWARD, SHAPING, SPEED_RANGE = 80.0, 0.2, 40.0
ABOVE, AROUND = 512, 60.0  # pixels of the picture from above, and metres it shows to every side


class Nocturne(World):
    """`num` copies; frames uint8 (size, size, 3), or float32 (13470,): see envs/nocturne/visibility.py.

    Action: (B, 2) float32, acceleration in m/s^2 within [-6, 6] and steering in rad within [-1, 1]; or (B,) int64, one
        of `grid`'s pairs; with other dynamics (B, 3) or (B, 4) float32, see envs/nocturne/dynamics.py.
    `info`, besides "final_obs": "goal" (B,) bool, "collision" (B,) int8 (0 none, 1 an object, 2 a road edge),
    "off_road" (B,) bool, "log_distance" (B,) metres. Seeds choose scene and ego: see envs/nocturne/pool.py.
    """

    NUMBERS = "features"
    SCORED_WITH: ClassVar[dict[str, Any]] = {"drive_on": True}

    def __init__(
        self,
        num: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        restart: bool = True,
        scenes: str | None = None,
        image_size: int = 64,
        view_dist: float = VIEW_DIST,
        goal: bool = True,
        speed: bool = True,
        actions: str = "continuous",
        warmup: int = WARMUP,
        drive_on: bool = False,
        observation: str = "cone",
        grid: ActionGrid | None = None,
        dynamics: str = "bicycle",
    ) -> None:
        """`scenes`: a folder, or None for synthetic ones. `image_size` pixels show `view_dist` metres, the `goal` and
            the ego's `speed`. `warmup`: steps of the log
        before an episode begins. `drive_on`: episodes continue after goal and collisions, without reward, as Nocturne's
        evaluation has it, so that distances to the log are over whole logs. `dynamics`: of NOCTURNE_DYNAMICS."""
        check_options(num, max_steps, image_size, view_dist, actions, warmup, observation, dynamics)
        self.num, self.device, self.restart = num, torch.device(device), restart
        self.warmup, self.drive_on = warmup, drive_on
        self.image_size, self.view_dist, self.marks = image_size, view_dist, (goal, speed)
        self.grid = grid or ActionGrid()
        self.dynamics = make_dynamics(dynamics, self.grid)
        bounds = np.array(self.dynamics.bounds, np.float32)
        discrete = actions == "discrete"
        options = {
            "scenes": scenes and str(scenes),
            "image_size": image_size,
            "view_dist": float(view_dist),
            "goal": goal,
            "speed": speed,
            "actions": actions,
            "warmup": warmup,
            "observation": observation,
        }
        if dynamics != NOCTURNE_DYNAMICS[0]:  # files of earlier versions say nothing of it
            options["dynamics"] = dynamics
        space = gym.spaces.Discrete(len(self.grid)) if discrete else gym.spaces.Box(-bounds, bounds)
        self.spec = WorldSpec(
            "nocturne",
            (image_size, image_size, 3) if observation == "cone" else (WIDTH,),
            space,
            DT,
            min(max_steps or LOG_END, LOG_END - warmup),
            None if discrete else self.dynamics.scale,
            options,
        )
        self.seen_apart = self.spec.pictures
        self.pool = make_pool(scenes, warmup)
        self.episodes = len(self.pool.episodes) if isinstance(self.pool, FolderPool) else None
        self._sim: Simulator | None = None
        self._copies = torch.arange(num, device=self.device)
        self._seen = True
        self._noise: ObservationNoise | None = None

    @property
    def sim(self) -> Simulator:
        if self._sim is None:
            raise RuntimeError("the world was used before reset(seed)")
        return self._sim

    def look_away(self) -> None:
        self._seen = False

    def blur(self, std: float) -> None:
        if not self.spec.pictures:
            super().blur(std)
        self._noise = ObservationNoise(std, self.num)
        self.spec = replace(self.spec, options={**self.spec.options, NOISE: std})

    def reset(self, seed: int | Sequence[int]) -> Tensor:
        self._seeds, self._stride = self.seeds(seed)
        self._begin_noise(range(self.num))
        drawn = [self.pool.draw(s) for s in self._seeds]
        scenes = [scene for scene, _ in drawn]
        self.egos = torch.tensor([ego for _, ego in drawn], device=self.device)  # (B,)
        if self._sim is None:
            self._sim = Simulator(scenes, self.device)
            self._sim.reset(time=self.warmup)
        else:
            self.sim.reset(range(self.num), scenes, self.warmup)
        self.steps, self.over = np.zeros(self.num, np.int64), np.zeros(self.num, bool)
        self._terminated = torch.zeros(self.num, dtype=torch.bool, device=self.device)
        self._truncated = torch.zeros_like(self._terminated)
        self._start_distance = self._goal_gap()[0]
        self._tally = {
            name: torch.zeros(self.num, device=self.device)
            for name in ("goal", "goal_position", "vehicle_collision", "road_edge")
        }
        self._away = torch.zeros(self.num, device=self.device)  # metres from the log, added up over the steps
        self._frames = self._draw()
        return self._frames.clone()

    def step(self, action: Tensor) -> Step:
        asked = torch.from_numpy(self.spec.space.checked(action, self.num)).to(self.device)
        pair = self.grid.pair(asked) if self.spec.space.discrete else asked
        command = self.dynamics.command(self.sim, self._copies, self.egos, pair)
        expert = torch.ones_like(self.sim.present)
        expert[self._copies, self.egos] = False
        going = ~self.over
        self.sim.step(**command, expert=expert, going=going)
        self.steps += going
        moved = torch.from_numpy(going).to(self.device)
        reward, goal, collision = self._judge(moved & ~self._ended())
        if not self.drive_on:
            self._terminated |= moved & (goal | (collision > 0))
        self._truncated |= (
            moved & torch.from_numpy(self.steps >= self.spec.max_steps).to(self.device) & ~self._terminated
        )
        terminated, truncated = self._terminated.clone(), self._truncated.clone()
        self.over = (terminated | truncated).cpu().numpy()
        info = {
            "goal": goal,
            "collision": collision,
            "off_road": collision == ROAD_EDGE,
            "log_distance": self._log_distance(),
        }
        if going.all():
            self._frames = self._draw()
        else:
            self._frames[moved] = self._draw(np.flatnonzero(going).tolist())  # those that ended need no new picture
        info["final_obs"] = self._frames.clone()
        if self.restart and self.over.any():
            self._restart(np.flatnonzero(self.over).tolist())
        return Step(self._frames.clone(), reward, terminated, truncated, info)

    def truncate(self, copies: Sequence[int]) -> None:
        self._truncated[copies], self.over[copies] = True, True

    @classmethod
    def keys(cls, space: ActionSpace) -> Keys:
        return traffic_keys(space) if not space.discrete and space.size == 2 else usual_keys(space)

    def expert_action(self) -> Tensor:
        """What leads the ego back to its logged path and pace, shaped like `action`; on the log, what the log does."""
        return self._as_action(self.dynamics.expert(self.sim, self._copies, self.egos))

    def reference_action(self, name: str) -> Tensor:
        if name == "log":  # as it is, open loop
            return self._as_action(self.dynamics.log(self.sim, self._copies, self.egos))
        if name == "constant":
            return self._as_action(self.dynamics.constant(self.sim, self._copies, self.egos))
        return super().reference_action(name)

    def outcome(self) -> dict[str, Tensor]:
        """goal_rate, goal_rate_position (within 1 m at any speed), collision_rate, vehicle_collision_rate (with any
        object), road_edge_rate: 1 or 0, whether it has happened, before any other of them ended the episode; ade, fde:
        metres from the log, on average over the steps so far, and now."""
        rates = {f"{name}_rate": value for name, value in self._tally.items() if name != "goal_position"}
        crashed = torch.maximum(self._tally["vehicle_collision"], self._tally["road_edge"])
        steps = torch.from_numpy(self.steps).to(self.device).clamp(min=1)
        return {
            **rates,
            "goal_rate_position": self._tally["goal_position"],
            "collision_rate": crashed,
            "ade": self._away / steps,
            "fde": self._log_distance(),
        }

    def places(self) -> list[str]:
        """The name of the scene each copy is in."""
        return [scene.name for scene in self.sim.scenes]

    def held_out(self, seed: int) -> bool | None:
        return self.pool.held_out(seed)

    def render(self, copy: int = 0) -> np.ndarray:
        """The scene from above, the ego in its middle looking up."""
        from dreamdrive.envs.nocturne.cone import render_cones

        return render_cones(
            self.sim,
            [(copy, int(self.egos[copy]))],
            ABOVE,
            view_dist=AROUND,
            view_angle=2 * np.pi,
            goal=True,
            occlusion=False,
        )[0].numpy()

    def _as_action(self, pair: Tensor) -> Tensor:
        if self.spec.space.discrete:
            return self.grid.index(pair)
        bounds = torch.tensor(self.dynamics.bounds, device=self.device)
        return torch.minimum(torch.maximum(pair, -bounds), bounds)

    def _restart(self, copies: list[int]) -> None:
        drawn = []
        for copy in copies:
            self._seeds[copy] += self._stride
            drawn.append(self.pool.draw(self._seeds[copy]))
        self._begin_noise(copies)
        self.sim.reset(copies, [scene for scene, _ in drawn], self.warmup)
        self.egos[copies] = torch.tensor([ego for _, ego in drawn], device=self.device)
        self.steps[copies], self.over[copies] = 0, False
        for value in (self._terminated, self._truncated, self._away, *self._tally.values()):
            value[copies] = 0
        self._start_distance[copies] = self._goal_gap()[0][copies]
        self._frames[copies] = self._draw(copies)

    def _begin_noise(self, copies: Sequence[int]) -> None:
        if self._noise is not None:
            for copy in copies:
                self._noise.begin(copy, self._seeds[copy])

    def _ended(self) -> Tensor:
        """(B,) bool: whose goal is reached, or who has collided (driving on after that gets no more reward)."""
        return (self._tally["goal"] + self._tally["vehicle_collision"] + self._tally["road_edge"]) > 0

    def _judge(self, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, whether the goal is reached, and collision (B,) of the state now; noted for those `counted` (B,)."""
        goal, collision = self.sim.at_goal()[self._copies, self.egos], self.sim.collision[self._copies, self.egos]
        distance, speed, turn = self._goal_gap()
        shaping = (1 - distance / self._start_distance) + (1 - speed / SPEED_RANGE) + (1 - turn / (2 * torch.pi))
        reward = torch.where(counted, (GOAL_REWARD * goal + SHAPING * shaping) / 10, 0.0)
        for name, now in (
            ("goal", goal),
            ("goal_position", distance < GOAL_DISTANCE),
            ("vehicle_collision", collision == VEHICLE),
            ("road_edge", collision == ROAD_EDGE),
        ):
            self._tally[name] = torch.where(counted & now, 1.0, self._tally[name])
        moved = torch.from_numpy(~self.over).to(self.device)
        self._away += torch.where(moved, self._log_distance(), 0.0)
        return reward, goal, collision

    def _goal_gap(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) each: metres, m/s and rad between the egos and what is wanted at their goals."""
        state, goal = self.sim.local[self._copies, self.egos], self.sim.goal[self._copies, self.egos]
        return (
            (state[:, :2] - goal[:, :2]).norm(dim=-1),
            (state[:, 3] - goal[:, 3]).abs(),
            wrap(state[:, 2] - goal[:, 2]).abs(),
        )

    def _log_distance(self) -> Tensor:
        """(B,) metres between the egos and where the log has them."""
        log, _ = self.sim.logged()
        return (self.sim.local[self._copies, self.egos, :2] - log[self._copies, self.egos, :2]).norm(dim=-1)

    def _draw(self, copies: Sequence[int] | None = None) -> Tensor:
        """Frames of copies, by default all, (n, H, W, C) uint8."""
        which = self._copies if copies is None else torch.as_tensor(copies, dtype=torch.int64, device=self.device)
        if not self._seen:
            return torch.zeros(
                len(which),
                *self.spec.image_shape,
                dtype=torch.uint8 if self.spec.pictures else torch.float32,
                device=self.device,
            )
        egos = torch.stack([which, self.egos[which]], 1)
        if not self.spec.pictures:
            return features(self.sim, egos, self.view_dist).flat
        from dreamdrive.envs.nocturne.cone import render_cones

        goal, speed = self.marks
        pictures = render_cones(self.sim, egos, self.image_size, self.view_dist, goal=goal, speed=speed, anchor=ANCHOR)
        pictures = pictures.to(self.device)
        return pictures if self._noise is None else self._noise.seen(which.tolist(), pictures)


def check_options(
    num: int,
    max_steps: int | None,
    image_size: int,
    view_dist: float,
    actions: str,
    warmup: int,
    observation: str,
    dynamics: str,
) -> None:
    """UserError for what `Nocturne` cannot be made with."""
    if num < 1 or (max_steps is not None and max_steps < 1):
        raise UserError(f"{num} copies of at most {max_steps} steps are not possible: both must be 1 or more")
    if not 1 <= view_dist <= FURTHEST:
        raise UserError(f"cone images that reach {view_dist:g} m are not possible: choose 1 to {FURTHEST:g} m")
    if observation not in CONE_OBSERVATIONS:
        raise UserError(f'there is no observation "{observation}": choose {" or ".join(CONE_OBSERVATIONS)}')
    if dynamics not in NOCTURNE_DYNAMICS:
        raise UserError(f'there are no dynamics "{dynamics}": choose {", ".join(NOCTURNE_DYNAMICS)}')
    if actions == "discrete" and dynamics != "bicycle":
        raise UserError(f"discrete actions are pairs of acceleration and steering: with {dynamics} leave them away")
    if image_size not in CONE_SIZES or actions not in NOCTURNE_ACTIONS or not 0 <= warmup < LOG_END:
        raise UserError(
            f"cone images of {image_size} pixels with {actions} actions after {warmup} steps are not possible: "
            f"choose {CONE_SIZES[0]} or {CONE_SIZES[1]} pixels, "
            f"{' or '.join(NOCTURNE_ACTIONS)} actions, and 0 to {LOG_END - 1} steps"
        )


def traffic_keys(space: ActionSpace) -> Keys:
    """Those of acceleration and steering; headings grow to the left."""
    pushes = {
        "left": Push(1, 1, "steer left"),
        "right": Push(1, -1, "steer right"),
        "up": Push(0, 1, "accelerate"),
        "down": Push(0, -1, "brake"),
    }
    return NumberKeys(space, pushes, names=("accelerate", "steer"), nothing="nothing: roll on")


class NocturneEnv(gym.Env):
    """`gymnasium.make("dreamdrive/Nocturne-v0", ...)`: one ego; options as of `Nocturne`, `reset(seed=...)` chooses
    scene and ego."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / DT)}

    def __init__(self, render_mode: str | None = None, **options) -> None:
        self.world = Nocturne(1, restart=False, **options)
        self.render_mode = render_mode
        self.action_space = self.world.spec.action_space
        shape = self.world.spec.image_shape
        self.observation_space = (
            gym.spaces.Box(0, 255, shape, np.uint8)
            if self.world.spec.pictures
            else gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**19)) if seed is None else seed
        return self.world.reset([start])[0].numpy(), {}

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        result = self.world.step(torch.as_tensor(np.asarray(action))[None])
        info = {name: value[0].item() for name, value in result.info.items() if name != "final_obs"}
        return result.obs[0].numpy(), float(result.reward), bool(result.terminated), bool(result.truncated), info

    def render(self) -> np.ndarray | None:
        return self.world.render() if self.render_mode == "rgb_array" else None
