"""Any gymnasium or old-gym environment as a world: copies stepped one after another, frames area-resized to one size.

`make("gym:CartPole-v1")` is GymWorld("CartPole-v1"). The id is looked up in gymnasium, then in the old `gym` 0.26
package where that is installed; "gym:old/<id>" skips gymnasium. "gym:<module>:<id>" imports `module` first, which
registers the environment: that is how a user's own simulator comes in (docs/your-own-world.md).
"""

import contextlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch

from dreamdrive.envs import NOISE, REPEAT, Step, World, WorldSpec
from dreamdrive.envs.catalogue import ONE_INSTANCE, module_of, require_module
from dreamdrive.envs.gym_answers import (
    Advance,
    advance,
    expert_answers,
    first_observation,
    made,
    number,
    numbers,
    takes,
)
from dreamdrive.envs.noise import ObservationNoise
from dreamdrive.utils.closing import close_at_end
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.spaces import ActionSpace

DEFAULT_MAX_STEPS = 1000  # where neither the environment nor the user gives a limit
OBSERVATIONS = ("picture", "state")
DEFAULT_FPS = 30  # where the environment's metadata has no frame rate


class GymWorld(World):
    """`num` copies of an environment; obs is the environment's own image, or else the picture it renders, area-resized.

    An observation that is not an image, flattened to float32, is in `step.info["state"]` (B, S), of the moment of
    `step.obs`, and in `world.state`; with observation="state" it is obs itself, and nothing is drawn.
    `max_steps` counts steps in the world: it replaces the environment's registered limit.
    """

    NUMBERS: ClassVar[str | None] = "state"

    def __init__(
        self,
        id: str,
        num: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        restart: bool = True,
        frame_size: int = 64,
        observation: str = "picture",
        one_instance: bool = False,
        **arguments,
    ):
        """`one_instance`: there can be one of it at a time. `arguments` go to the environment when it is made."""
        if observation not in OBSERVATIONS:
            raise UserError(f'gym:{id} has no observation "{observation}": choose {" or ".join(OBSERVATIONS)}')
        for name, value in {"num": num, "max_steps": max_steps, "frame_size": frame_size}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be 1 or more")
        self.num, self.device, self.restart = num, torch.device(device), restart
        if one_instance and num > 1:
            raise UserError(f"{num} copies of gym:{id} are wanted, and --one-instance says that there can be one")
        package, registered = find_environment(id)
        self._environments: list[Any] = []
        self._closed = close_at_end(self, close_each, self._environments)  # also if one of them cannot be made
        for _ in range(num):
            self._environments.append(make_environment(package, registered, **arguments))
        first = self._environments[0]
        metadata = first.metadata or {}
        fps = metadata.get("render_fps") or metadata.get("video.frames_per_second") or DEFAULT_FPS
        limit = max_steps or registered.max_episode_steps or DEFAULT_MAX_STEPS
        shape = (frame_size, frame_size, 3) if observation == "picture" else numbers_shape(id, first.observation_space)
        options: dict[str, Any] = {} if observation == "picture" else {"observation": observation}
        options |= {ONE_INSTANCE: True} if one_instance else {}
        self._space = gymnasiums(first.action_space)  # the environment's own
        space = ActionSpace.from_gym(self._space).in_half_ranges()
        self.spec = WorldSpec(
            f"gym:{id}", shape, space.to_gym(), 1 / fps, limit, space.scale, options, action_center=space.center
        )
        self._repeat, self._limit = 1, limit
        self._seen = True
        self._noise: ObservationNoise | None = None
        self._frames: torch.Tensor | None = None  # what the copies show, (B, H, W, C); None until the first reset
        self._states: list[np.ndarray] = [np.empty(0, np.float32)] * num  # empty where observations are images

    @property
    def state(self) -> torch.Tensor | None:
        """The latest observations (B, S) float32 of an environment whose observation is not an image, else None; nor
        are there any where it shows sometimes more numbers, sometimes fewer."""
        alike = len({state.size for state in self._states}) == 1
        return self._tensor(np.stack(self._states)) if alike and self._states[0].size else None

    def hold(self, steps: int) -> None:
        self._repeat = steps
        self.spec = replace(
            self.spec,
            dt=self.spec.dt * steps,
            max_steps=-(-self._limit // steps),
            options={**self.spec.options, REPEAT: steps},
        )

    def blur(self, std: float) -> None:
        if not self.spec.pictures:
            super().blur(std)
        self._noise = ObservationNoise(std, self.num)
        self.spec, self.seen_apart = replace(self.spec, options={**self.spec.options, NOISE: std}), True

    def reset(self, seed: int | Sequence[int]) -> torch.Tensor:
        """Start every copy afresh and return obs (B, H, W, C). An int seeds copy b with seed + b; a sequence gives one
        seed a copy."""
        self._seeds, self._seed_stride = self.seeds(seed)
        self._steps = [0] * self.num
        self._terminated, self._truncated = np.zeros(self.num, bool), np.zeros(self.num, bool)
        self._frames = torch.zeros(
            self.num,
            *self.spec.image_shape,
            dtype=torch.uint8 if self.spec.pictures else torch.float32,
            device=self.device,
        )
        self._look(list(range(self.num)), [self._begin(copy) for copy in range(self.num)])
        return self._frames.clone()

    def step(self, action: torch.Tensor) -> Step:
        """Advance every copy by one step; action (B, A) float32, or (B,) int64, made an element of the environment's
        own space."""
        if self._frames is None:
            raise RuntimeError("step() was called before reset(seed)")
        actions = elements(self.spec.space.checked(action, self.num), self._space)
        going = np.flatnonzero(~(self._terminated | self._truncated)).tolist()
        reward, observations = np.zeros(self.num, np.float32), []
        for copy in going:
            advance = self._held(copy, actions[copy])
            reward[copy], self._terminated[copy], self._truncated[copy] = advance[1:]
            observations.append(advance.observation)
        self._look(going, observations)
        terminated, truncated, final_obs = self._terminated.copy(), self._truncated.copy(), self._frames.clone()
        over = np.flatnonzero(terminated | truncated).tolist() if self.restart else []
        self._look(over, [self._restart(copy) for copy in over])
        info = {"final_obs": final_obs}
        if self.state is not None:
            info["state"] = self.state
        return Step(
            self._frames.clone() if over else final_obs,
            self._tensor(reward),
            self._tensor(terminated),
            self._tensor(truncated),
            info,
        )

    def truncate(self, copies: Sequence[int]) -> None:
        self._truncated[copies] = True

    def expert_action(self) -> torch.Tensor:
        """What the environments' own `expert_action()` answers, shaped like `action`; UserError where they have
        none."""
        experts = [getattr(environment.unwrapped, "expert_action", None) for environment in self._environments]
        if None in experts:
            return super().expert_action()
        space = self.spec.space
        answers = [expert() for expert in experts if expert is not None]
        size = () if space.discrete else (space.size,)
        return self._tensor(expert_answers(answers, size, space.dtype, self.spec.name))

    def look_away(self) -> None:
        self._seen = False

    def render(self, copy: int = 0) -> np.ndarray:
        """The environment's own picture of one copy, uint8 (h, w, 3)."""
        environment = self._environments[copy]
        if "mode" in inspect.signature(environment.unwrapped.render).parameters:  # as it was before gym 0.26
            picture = environment.unwrapped.render(mode="rgb_array")
        else:
            picture = environment.render()
        if not is_image(picture):
            got = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise UserError(
                f"{self.spec.name} has no picture: its render() gave {got}, wanted uint8 (h, w, 3); support "
                'render_mode="rgb_array"'
            )
        return picture

    def close(self) -> None:
        """Release the environments."""
        self._closed()

    def _look(self, copies: list[int], observations: list[Any]) -> None:
        """Note what some copies show now, given their observations."""
        if copies:
            self._show(
                copies, self._tensor(np.stack([self._frame(*pair) for pair in zip(copies, observations, strict=True)]))
            )

    def _show(self, copies: list[int], frames: torch.Tensor) -> None:
        """These copies show frames (n, H, W, C) now."""
        assert self._frames is not None, "reset has made them"
        if self._noise is not None:
            frames = self._noise.seen(copies, frames)
        if len(copies) == self.num:  # a plain copy is twenty times as fast
            self._frames.copy_(frames)
        else:
            self._frames[copies] = frames

    def _start(self, copy: int, seed: int) -> Any:
        """Begin an episode in one copy and return its first observation; the environment's reset may be of the old form
        (no seed, no info)."""
        environment = self._environments[copy]
        if takes(environment, "seed"):
            result = environment.reset(seed=seed)
        else:
            environment.seed(seed)
            result = environment.reset()
        return first_observation(result)

    def _held(self, copy: int, action: np.ndarray | int) -> Advance:
        """Step one copy for as long as an action is held, or until its episode is over."""
        reward, limit = 0.0, min(self._limit, self._repeat * self.spec.max_steps)
        for _ in range(self._repeat):
            advance = self._advance(copy, action)
            reward = number(reward + advance.reward, self.spec.name, self._where(copy))
            self._steps[copy] += 1
            truncated = advance.truncated or self._steps[copy] >= limit
            if advance.terminated or truncated:
                break
        return Advance(advance.observation, reward, advance.terminated, truncated)

    def _advance(self, copy: int, action: np.ndarray | int) -> Advance:
        """Step one copy."""
        return advance(self._environments[copy].step(action), self.spec.name, self._where(copy))

    def _where(self, copy: int) -> str:
        return f"in step {self._steps[copy] + 1} of seed {self._seeds[copy]}"

    def _restart(self, copy: int) -> Any:
        self._seeds[copy] += self._seed_stride
        self._steps[copy] = 0
        self._terminated[copy] = self._truncated[copy] = False
        return self._begin(copy)

    def _begin(self, copy: int) -> Any:
        """Begin the episode of its seed in one copy and return its first observation."""
        if self._noise is not None:
            self._noise.begin(copy, self._seeds[copy])
        return self._start(copy, self._seeds[copy])

    def _frame(self, copy: int, observation: Any) -> np.ndarray:
        """What one copy shows; its state is noted."""
        image = is_image(observation)
        if not image and isinstance(observation, (np.ndarray, np.number, float, int)):
            wanted = None if self.spec.pictures else self.spec.image_shape[0]
            self._states[copy] = numbers(
                observation, wanted, self.spec.name, f"after {self._steps[copy]} steps of seed {self._seeds[copy]}"
            )
        if not self.spec.pictures:
            return self._states[copy]
        if not self._seen and self._frames is not None:
            return self._frames[copy].cpu().numpy()
        return area_resize(observation if image else self.render(copy), *self.spec.image_shape[:2])

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def close_each(environments: list) -> None:
    """Close environments; one that cannot be does not keep the others from it, and none ends pygame, by which others
    draw: what is closed as garbage may be so in the middle of another's picture."""
    pygame = sys.modules.get("pygame")
    parts: list[Any] = [part for part in (pygame, getattr(pygame, "display", None)) if part is not None]
    ends = [part.quit for part in parts]
    try:
        for part in parts:
            part.quit = lambda: None
        for environment in environments:
            with contextlib.suppress(Exception):
                environment.close()
    finally:
        for part, end in zip(parts, ends, strict=True):
            part.quit = end


def is_image(value: Any) -> bool:
    """Whether `value` is uint8 (h, w, 3)."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3


def numbers_shape(id: str, space: Any) -> tuple[int]:
    """(S,) of an environment that is observed as S numbers; UserError where it does not say how many."""
    shape = getattr(space, "shape", None)
    if (
        type(space).__name__ != "Box"
        or shape is None
        or math.prod(shape) < 1
        or (len(shape) == 3 and space.dtype == np.uint8)
    ):
        raise UserError(
            f"gym:{id} cannot be observed as numbers, its observations are {space}: leave --observation state away"
        )
    return (math.prod(shape),)


def gymnasiums(space: Any) -> gymnasium.Space:
    """A Discrete or a Box of whichever package as gymnasium's; anything else as it is."""
    if not isinstance(space, gymnasium.Space) and type(space).__name__ == "Discrete":
        return gymnasium.spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    if not isinstance(space, gymnasium.Space) and type(space).__name__ == "Box":
        return gymnasium.spaces.Box(space.low, space.high, dtype=space.dtype)
    return space


def elements(actions: np.ndarray, space: gymnasium.Space) -> list:
    """Actions (B, A) float32 or (B,) as a step of an environment takes them, one a copy: elements of its own `space`,
    whose numbers may be whole, or finer than float32, in which a bound can lie outside by a rounding."""
    if not isinstance(space, gymnasium.spaces.Box):
        return actions.tolist()
    if np.issubdtype(space.dtype, np.integer):
        actions = np.rint(actions)
    return list(np.clip(actions, space.low, space.high).astype(space.dtype))


@lru_cache(maxsize=64)
def area_taps(size: int, target: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """How `target` pixels cover `size` pixels: [(source index (target,), whole-number weight (target,)), ...] and the
    sum of a target's weights."""
    unit = math.gcd(size, target)
    # a target pixel and a source pixel, measured in the coarsest grid that both edges lie on
    wide, narrow = size // unit, target // unit
    start = np.arange(target, dtype=np.int32) * wide
    taps = []
    for k in range(wide // narrow + 2):
        source = start // narrow + k
        overlap = np.minimum(start + wide, (source + 1) * narrow) - np.maximum(start, source * narrow)
        if (overlap > 0).any():
            taps.append((np.minimum(source, size - 1), np.maximum(overlap, 0)))
    return taps, wide


def area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, C) -> uint8 (height, width, C), each pixel the mean of the area it covers, a half rounded up.

    In whole numbers, so the same frame on every machine, and without matrix products, whose threads stall a busy
    machine.
    """
    (rows, row_sum), (columns, column_sum) = area_taps(image.shape[0], height), area_taps(image.shape[1], width)
    area = row_sum * column_sum
    source = image.astype(np.int32 if 512 * area < 2**31 else np.int64)
    narrow = sum(source[index] * weight[:, None, None] for index, weight in rows)  # (height, W, C)
    total = sum(narrow[:, index] * weight[:, None] for index, weight in columns)  # (height, width, C)
    return ((2 * total + area) // (2 * area)).astype(np.uint8)


def make_environment(package: Any, registered: Any, **arguments) -> Any:
    """Build one environment of a package, given its spec and arguments, without its time limit; UserError where it
    lacks another package."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    # pygame only draws into memory here: no window, no complaint about a missing screen
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    return made(package, registered, arguments)


def find_environment(id: str) -> tuple[Any, Any]:
    """(package that knows `id`: gymnasium or old gym, its spec of it), after importing the module a "module:Id"
    names; UserError where that may not be imported (utils/modules.py)."""
    module, name = module_of(f"gym:{id}"), id.removeprefix("old/").rpartition(":")[2]
    if module:
        require_module(f"gym:{id}")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"gym:{id} names a module that cannot be imported ({error}): put its folder on PYTHONPATH"
            ) from None
    reason = ""
    if not id.startswith("old/"):
        try:
            return gymnasium, gymnasium.spec(name)
        except gymnasium.error.Error as error:
            reason = str(error).split("\n")[0].strip()
    try:
        old = importlib.import_module("gym")
        return old, old.spec(name)
    except ImportError:
        reason = reason or "the old gym package is not installed: run `pip install --no-deps gym==0.26.2 gym-notices`"
    except old.error.Error as error:
        reason = reason or str(error).split("\n")[0].strip()
    raise UserError(
        f'there is no environment "{id}" ({reason}); for one of your own write gym:<module that registers it>:<id>'
    )
