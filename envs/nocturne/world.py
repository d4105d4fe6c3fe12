"""Nocturne as a world: one ego a copy is driven, everybody else replays the log; a frame is what the ego sees, as a
cone image or as Nocturne's feature vector.

Reward and ends are those of Nocturne's own environment (Vinitsky et al. 2022): every step (0.2 (1 - d / d0) + 0.2 (1 -
|dv| / 40) + 0.2 (1 - |dh| / 2 pi)) / 10, with d the distance to the goal (d0 at the start), dv and dh the differences
to the speed and heading wanted there, and 8 more at the goal (within 1 m, 1 m/s and 0.3 rad); an episode ends there, at
a collision with an object or a road edge, or after `max_steps`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from numbers import Integral
from pathlib import Path
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
    READING,
    TRAFFIC,
    VIEW_DIST,
    WARMUP,
)
from dreamdrive.envs.nocturne.actions import ActionGrid
from dreamdrive.envs.nocturne.dynamics import Dynamics, make_dynamics
from dreamdrive.envs.nocturne.egos import movers
from dreamdrive.envs.nocturne.feature_vector import WIDTH, features
from dreamdrive.envs.nocturne.must_react import must_react
from dreamdrive.envs.nocturne.pool import FolderPool, make_pool
from dreamdrive.envs.nocturne.reactive import ReactiveTraffic
from dreamdrive.envs.nocturne.reading import Reading
from dreamdrive.envs.nocturne.realism import NAMES, Realism
from dreamdrive.envs.nocturne.scene import DT, Scene
from dreamdrive.envs.nocturne.simulator import GOAL_DISTANCE, LOG_END, ROAD_EDGE, VEHICLE, Simulator, wrap
from dreamdrive.envs.noise import ObservationNoise
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.keys import Keys, NumberKeys, Push, usual_keys
from dreamdrive.utils.spaces import ActionSpace

FURTHEST = 1000.0  # metres that a cone image may reach
ANCHOR = 0.75  # of a cone image's height, where the ego is: there is nothing to see behind it
GOAL_REWARD, SHAPING, SPEED_RANGE = 80.0, 0.2, 40.0
MUST_REACT = "must_react"
ABOVE, AROUND = 512, 60.0  # pixels of the picture from above, and metres it shows to every side


class Nocturne(World):
    """`num` copies; frames uint8 (size, size, 3), or float32 (13470,): see envs/nocturne/visibility.py.

    Action: (B, 2) float32, acceleration in m/s^2 within [-6, 6] and steering in rad within [-1, 1]; or (B,) int64, one
        of `grid`'s pairs; with other dynamics (B, 3) or (B, 4) float32, see envs/nocturne/dynamics.py.
    With `agents` there are as many rows a scene, `num * agents` in all, row b of scene b // agents: B above and below.
    The first is the ego that the scene's seed chooses, the others follow it in the order of the scene's egos; where
    there are fewer, `present` (B,) is False, and the row ends with the first step. Who has ended is taken out of its
    scene, and does not stand in the way of those that go on; a new one begins with `reset`, so `restart` is False.

    `info`, besides "final_obs": "goal" (B,) bool, "collision" (B,) int8 (0 none, 1 an object, 2 a road edge),
    "off_road" (B,) bool, "log_distance" (B,) metres. Seeds choose scene and ego: see envs/nocturne/pool.py.
    """

    NUMBERS = "features"
    SCORED_WITH: ClassVar[dict[str, Any]] = {"drive_on": True}
    SUBSETS: ClassVar[tuple[str, ...]] = (MUST_REACT,)
    DETAILS: ClassVar[tuple[str, ...]] = NAMES

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
        traffic: str = "log",
        dynamics: str = NOCTURNE_DYNAMICS[0],
        agents: int = 1,
        egos: str = "movers",
        **reading: Any,
    ) -> None:
        """`scenes`: a folder, or None for synthetic ones; `reading`: how its files are read (see Reading); `egos`: who
        is driven in them (see egos.py). `image_size` pixels show `view_dist` metres, the `goal` and the ego's `speed`.
        `warmup`: steps of the log before an episode begins. `drive_on`: episodes continue after goal and collisions,
        without reward, as Nocturne's evaluation has it, so that distances to the log are over whole logs. `traffic`:
        the others replay the "log", or answer, "idm" (envs/nocturne/reactive.py). `dynamics`: of NOCTURNE_DYNAMICS.
        `agents`: so many egos of each scene are driven at once, as it says above."""
        check_options(num, max_steps, image_size, view_dist, actions, warmup, observation, traffic, dynamics)
        check_agents(agents, restart)
        self.num, self.agents, self.device, self.restart = num * agents, agents, torch.device(device), restart
        self.warmup, self.drive_on = warmup, drive_on
        self.image_size, self.view_dist, self.marks = image_size, view_dist, (goal, speed)
        self.grid = grid or ActionGrid()
        self.dynamics = make_dynamics(dynamics, self.grid)
        options = {
            "scenes": scenes and str(scenes),
            "image_size": image_size,
            "view_dist": float(view_dist),
            "goal": goal,
            "speed": speed,
            "actions": actions,
            "warmup": warmup,
            "observation": observation,
            "egos": egos,
            **asdict(Reading(**reading)),
            **({} if traffic == TRAFFIC[0] else {"traffic": traffic}),  # files from before it say nothing
            **({} if agents == 1 else {"agents": agents}),
            **({} if dynamics == NOCTURNE_DYNAMICS[0] else {"dynamics": dynamics}),
        }
        self.spec = spec_of(options, self.grid, self.dynamics, max_steps)
        self.seen_apart = self.spec.pictures
        self.pool = make_pool(scenes, warmup, egos, Reading(**reading))
        self.episodes = len(self.pool) if isinstance(self.pool, FolderPool) else None
        self._sim: Simulator | None = None
        self._answers = traffic == "idm"
        self._traffic: ReactiveTraffic | None = None
        self._copies = torch.arange(num, device=self.device).repeat_interleave(agents)  # the scene a row is of
        self._seen = True
        self._noise: ObservationNoise | None = None

    @classmethod
    def prepare(
        cls, scenes: str | None = None, warmup: int = WARMUP, egos: str = "movers", **options: Any
    ) -> Callable[[int], Any]:
        if not scenes:
            return super().prepare()
        reading = Reading(**{name: value for name, value in options.items() if name in READING})
        return FolderPool(Path(scenes), warmup, egos, reading).which

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

    def seeds(self, seed: int | Sequence[int]) -> tuple[list[int], int]:
        """Those of the scenes, each of which may have several rows."""
        count = self.num // self.agents
        if isinstance(seed, (int, Integral)):
            return [int(seed) + b for b in range(count)], count
        if len(seed) != count:
            raise ValueError(f"one seed a scene is wanted: {len(seed)} seeds for {count} scenes")
        return [int(s) for s in seed], 1

    def reset(self, seed: int | Sequence[int]) -> Tensor:
        self._seeds, self._stride = self.seeds(seed)
        self._begin_noise(range(self.num))
        drawn = [self.pool.draw(s) for s in self._seeds]
        scenes = [scene for scene, _ in drawn]
        egos = [together(scene, ego, self.agents, self.warmup) for scene, ego in drawn]
        self.egos = torch.tensor(egos, device=self.device).flatten()  # (B,), -1 for nobody
        self.present, self.egos = self.egos >= 0, self.egos.clamp(min=0)
        if self._sim is None:
            self._sim = Simulator(scenes, self.device)
            self._sim.reset(time=self.warmup)
            self._traffic = ReactiveTraffic(self._sim) if self._answers else None
        else:
            self._put(range(len(scenes)), scenes)
        self.steps, self.over = np.zeros(self.num, np.int64), (~self.present).cpu().numpy()
        self._limits = np.array(
            [self._limit(scene, max(n, 0)) for scene, those in zip(scenes, egos, strict=True) for n in those]
        )
        self._terminated = torch.zeros(self.num, dtype=torch.bool, device=self.device)
        self._truncated = ~self.present
        self._start_distance = self._goal_gap()[0]
        self._tally = {
            name: torch.zeros(self.num, device=self.device)
            for name in ("goal", "goal_position", "vehicle_collision", "road_edge")
        }
        self._away = torch.zeros(self.num, device=self.device)  # metres from the log, added up over the steps
        self._realism = Realism() if self.drive_on else None
        self._note(np.ones(self.num, bool))
        self._frames = self._draw()
        self._frames[~self.present] = 0
        return self._frames.clone()

    def step(self, action: Tensor) -> Step:
        asked = torch.from_numpy(self.spec.space.checked(action, self.num)).to(self.device)
        pair = self.grid.pair(asked) if self.spec.space.discrete else asked
        who = self._copies[self.present], self.egos[self.present]
        command = self.dynamics.command(self.sim, *who, pair[self.present])
        expert = torch.ones_like(self.sim.present)
        expert[who] = False
        going = ~self.over
        scenes_going = np.logical_or.reduce(going.reshape(-1, self.agents), axis=1)
        if self.agents > 1:
            gone = self.present & torch.from_numpy(self.over).to(self.device)
            self.sim.there[self._copies[gone], self.egos[gone]] = False
        others = self._traffic.next(~expert, scenes_going) if self._traffic is not None else None
        self.sim.step(**command, expert=expert, going=scenes_going, others=others)
        self.steps += going
        moved = torch.from_numpy(going).to(self.device)
        away = self._log_distance()
        reward, goal, collision = self._judge(moved & ~self._ended(), away)
        self._note(going)
        if not self.drive_on:
            self._terminated |= moved & (goal | (collision > 0))
        self._truncated |= moved & torch.from_numpy(self.steps >= self._limits).to(self.device) & ~self._terminated
        terminated, truncated = self._terminated.clone(), self._truncated.clone()
        self.over = (terminated | truncated).cpu().numpy()
        info = {"goal": goal, "collision": collision, "off_road": collision == ROAD_EDGE, "log_distance": away}
        if going.all():
            self._frames = self._draw()
        else:
            self._frames[moved] = self._draw(np.flatnonzero(going).tolist())  # those that ended need no new picture
        info["final_obs"] = obs = self._frames.clone()
        if self.restart and self.over.any():
            self._restart(np.flatnonzero(self.over).tolist())
            obs = self._frames.clone()
        return Step(obs, reward, terminated, truncated, info)

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
        metres from the log, on average over the steps so far, and now; must_react: 1 for egos that have to
        (envs/nocturne/must_react.py). With `drive_on`, of whole drives: realism and likelihood_*
        (envs/nocturne/realism.py)."""
        rates = {f"{name}_rate": value for name, value in self._tally.items() if name != "goal_position"}
        crashed = torch.maximum(self._tally["vehicle_collision"], self._tally["road_edge"])
        steps = torch.from_numpy(self.steps).to(self.device).clamp(min=1)
        return {
            **rates,
            "goal_rate_position": self._tally["goal_position"],
            "collision_rate": crashed,
            "ade": self._away / steps,
            "fde": self._log_distance(),
            MUST_REACT: torch.tensor(
                [
                    float(must_react(self.sim.scenes[copy], ego, self.warmup))
                    for copy, ego in zip(self._copies.tolist(), self.egos.tolist(), strict=True)
                ],
                device=self.device,
            ),
            **{
                name: torch.from_numpy(values).float().to(self.device)
                for name, values in (self._realism.likelihoods() if self._realism is not None else {}).items()
            },
        }

    def places(self) -> list[str]:
        """The name of the scene each copy is in."""
        return [self.sim.scenes[copy].name for copy in self._copies.tolist()]

    def held_out(self, seed: int) -> bool | None:
        return self.pool.held_out(seed)

    def render(self, copy: int = 0) -> np.ndarray:
        """The scene from above, the ego in its middle looking up."""
        from dreamdrive.envs.nocturne.cone import render_cones

        return render_cones(
            self.sim,
            [(int(self._copies[copy]), int(self.egos[copy]))],
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
        self._put(copies, [scene for scene, _ in drawn])
        self.egos[copies] = torch.tensor([ego for _, ego in drawn], device=self.device)
        self.steps[copies], self.over[copies] = 0, False
        self._limits[copies] = [self._limit(scene, ego) for scene, ego in drawn]
        for value in (self._terminated, self._truncated, self._away, *self._tally.values()):
            value[copies] = 0
        self._start_distance[copies] = self._goal_gap()[0][copies]
        self._frames[copies] = self._draw(copies)

    def _limit(self, scene: Scene, ego: int) -> int:
        """Steps of an episode: at most what is left of the ego's log."""
        return min(self.spec.max_steps, int(scene.last_valid[ego]) - self.warmup)

    def _put(self, copies: Sequence[int], scenes: Sequence[Scene]) -> None:
        """Begin scenes, one a copy."""
        self.sim.reset(copies, scenes, self.warmup)
        if self._traffic is not None:
            self._traffic.reset(copies, scenes)

    def _begin_noise(self, copies: Sequence[int]) -> None:
        if self._noise is not None:
            for copy in copies:
                self._noise.begin(copy, self._seeds[copy // self.agents], copy % self.agents)

    def _note(self, going: np.ndarray) -> None:
        if self._realism is not None:
            self._realism.note(self.sim, self._copies, self.egos, going)

    def _ended(self) -> Tensor:
        """(B,) bool: whose goal is reached, or who has collided (driving on after that gets no more reward)."""
        return (self._tally["goal"] + self._tally["vehicle_collision"] + self._tally["road_edge"]) > 0

    def _judge(self, counted: Tensor, away: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, whether the goal is reached, and collision (B,) of the state now, `away` (B,) metres from the log;
        noted for those `counted` (B,)."""
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
        self._away += torch.where(moved, away, 0.0)
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
        rows = range(self.num) if copies is None else copies
        which = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        if not self._seen:
            return torch.zeros(
                len(which),
                *self.spec.image_shape,
                dtype=torch.uint8 if self.spec.pictures else torch.float32,
                device=self.device,
            )
        egos = torch.stack([self._copies[which], self.egos[which]], 1)
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
    traffic: str,
    dynamics: str,
) -> None:
    """UserError for what `Nocturne` cannot be made with."""
    if num < 1 or (max_steps is not None and max_steps < 1):
        raise UserError(f"{num} copies of at most {max_steps} steps are not possible: both must be 1 or more")
    if not 1 <= view_dist <= FURTHEST:
        raise UserError(f"cone images that reach {view_dist:g} m are not possible: choose 1 to {FURTHEST:g} m")
    if observation not in CONE_OBSERVATIONS:
        raise UserError(f'there is no observation "{observation}": choose {" or ".join(CONE_OBSERVATIONS)}')
    if traffic not in TRAFFIC:
        raise UserError(f'there is no traffic "{traffic}": choose {" or ".join(TRAFFIC)}')
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


def spec_of(options: dict[str, Any], grid: ActionGrid, dynamics: Dynamics, max_steps: int | None) -> WorldSpec:
    """What a world with these options is."""
    size, discrete = options["image_size"], options["actions"] == "discrete"
    bounds = np.array(dynamics.bounds, np.float32)
    return WorldSpec(
        "nocturne",
        (size, size, 3) if options["observation"] == "cone" else (WIDTH,),
        gym.spaces.Discrete(len(grid)) if discrete else gym.spaces.Box(-bounds, bounds),
        DT,
        min(max_steps or LOG_END, LOG_END - options["warmup"]),
        None if discrete else dynamics.scale,
        options,
    )


def check_agents(agents: int, restart: bool) -> None:
    """UserError for numbers of agents that are not possible."""
    if agents < 1:
        raise UserError(f"{agents} agents are not possible: give 1 or more")
    if agents > 1 and restart:
        raise UserError(f"a scene of {agents} agents begins anew when all of them have ended: give restart=False")


def together(scene: Scene, first: int, agents: int, warmup: int) -> list[int]:
    """Places in the scene's arrays of so many egos, `first` and the movers after it; -1 where there are no more."""
    egos = sorted({first, *movers(scene, warmup)}) if agents > 1 else [first]
    at = egos.index(first)
    return [*egos[at:], *egos[:at], *[-1] * agents][:agents]


def traffic_keys(space: ActionSpace) -> Keys:
    """Those of acceleration and steering; headings grow to the left."""
    pushes = {
        "left": Push(1, 1, "steer left"),
        "right": Push(1, -1, "steer right"),
        "up": Push(0, 1, "accelerate"),
        "down": Push(0, -1, "brake"),
    }
    return NumberKeys(space, pushes, names=("accelerate", "steer"), nothing="nothing: roll on")


def observation_space(spec: WorldSpec) -> gym.spaces.Box:
    """Of what `spec.image_shape` says."""
    if spec.pictures:
        return gym.spaces.Box(0, 255, spec.image_shape, np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, spec.image_shape, np.float32)


class NocturneEnv(gym.Env):
    """`gymnasium.make("dreamdrive/Nocturne-v0", ...)`: one ego; options as of `Nocturne`, `reset(seed=...)` chooses
    scene and ego."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / DT)}

    def __init__(self, render_mode: str | None = None, **options) -> None:
        self.world = Nocturne(1, restart=False, **options)
        self.render_mode = render_mode
        self.action_space = self.world.spec.action_space
        self.observation_space = observation_space(self.world.spec)

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
