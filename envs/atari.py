"""Atari 2600 games as worlds, by ale-py, which brings the games: `atari:Breakout`, `atari:MsPacman`, ...

Seen as DeepMind's players see them (Mnih et al. 2015, Methods): a step holds a key for four frames; what is seen is the
brighter of the last two of them at each pixel, because the console draws some things in every other frame only; in
grey, area-resized to 84x84, and the last four of these together. A game begins after 1 to 30 idle frames, and FIRE is
pressed where it begins a life. Rewards are the game's own points.
"""

import difflib
from collections import deque
from collections.abc import Set
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch

from dreamdrive.envs import World, breakout
from dreamdrive.envs.catalogue import GAME_OBSERVATIONS
from dreamdrive.envs.gym_adapter import GymWorld, area_resize
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.keys import NOTHING, ChoiceKeys, Keys
from dreamdrive.utils.spaces import ActionSpace

FRAMES = 4  # a step holds a key for
FPS = 60
STACK, SIDE, FRAME = 4, 84, 64
MAX_STEPS = 27_000  # half an hour of play, as in Mnih et al. 2015
OBSERVATIONS = dict(zip(GAME_OBSERVATIONS, ((SIDE, SIDE, STACK), (FRAME, FRAME, 3)), strict=True))
DRIVERS = {"Breakout": breakout.Driver}
SIMULATOR = "dreamdrive/Atari-v0"
# keys, by the parts of ale-py's names
STICK = {"up": "UP", "down": "DOWN", "left": "LEFT", "right": "RIGHT", "space": "FIRE"}
# the order of the parts in a name; of two keys that exclude each other neither counts
CHORDS = (("up", "down"), ("right", "left"), ("space",))

gymnasium.register(SIMULATOR, entry_point="dreamdrive.envs.atari:Game", max_episode_steps=MAX_STEPS)


class Atari(GymWorld):
    """`num` games; frames uint8 (84, 84, 4), the oldest first, or (64, 64, 3); action (B,) int64, an index of the keys
    the game knows, 0 for none.

    An episode is a game, or its first life. Seeds decide the number of idle frames, and which keys stick.
    """

    NUMBERS = None

    def __init__(
        self,
        game: str,
        num: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        restart: bool = True,
        observation: str = "stack",
        sticky: float = 0.0,
        noops: int = 30,
        fire: bool = True,
        one_life: bool = False,
    ) -> None:
        """`observation`: "stack", or "picture" in colour. `sticky`: probability that a frame repeats the key of the
            frame before, whatever is pressed (Machado et al.
        2018). `noops`: a game begins after 1 to so many idle frames. `fire`: FIRE is pressed for a step when a life
        begins; else that is left to the player."""
        if observation not in OBSERVATIONS:
            raise UserError(f'atari:{game} has no observation "{observation}": choose {" or ".join(OBSERVATIONS)}')
        if not 0 <= sticky < 1 or noops < 0:
            raise UserError(
                f"keys that stick with probability {sticky:g} after up to {noops} idle frames are not possible: choose "
                "0 up to, but not, 1, and 0 or more"
            )
        rom_path(game)  # says what is wrong with the name, or missing, before anything is made
        options = {
            "observation": observation,
            "sticky": float(sticky),
            "noops": int(noops),
            "fire": bool(fire),
            "one_life": bool(one_life),
        }
        super().__init__(
            SIMULATOR,
            num,
            device,
            max_steps,
            restart,
            game=game,
            shown=observation,
            sticky=float(sticky),
            noops=int(noops),
            fire=bool(fire),
            one_life=bool(one_life),
        )
        self.spec = replace(self.spec, name=f"atari:{game}", image_shape=OBSERVATIONS[observation], options=options)

    @property
    def lives(self) -> torch.Tensor:
        """(B,) int64: lives left."""
        return torch.tensor(
            [environment.unwrapped.ale.lives() for environment in self._environments], device=self.device
        )

    def expert_action(self) -> torch.Tensor:
        """(B,) int64: what our driver would do now; UserError for a game that has none."""
        if self._environments[0].unwrapped.game not in DRIVERS:
            return World.expert_action(self)
        return super().expert_action()

    def action_names(self) -> list[str]:
        """As ale-py spells them: NOOP, FIRE, UPRIGHT, ..."""
        return [key.name for key in self._environments[0].unwrapped.keys]

    @classmethod
    def keys(cls, space: ActionSpace) -> Keys:
        return Joystick(space) if space.names else ChoiceKeys(space, {})

    def look_away(self) -> None:
        for environment in self._environments:
            environment.unwrapped.blind = True

    def _frame(self, copy: int, observation: np.ndarray) -> np.ndarray:
        return observation


class Joystick(ChoiceKeys):
    """Keys that are held together: their names, one after another, are the name of an action."""

    def __init__(self, space: ActionSpace) -> None:
        super().__init__(space, {})
        parts = {part for name in space.names for key, part in STICK.items() if part in name}
        self.listed = {key: part.lower() for key, part in STICK.items() if part in parts} | {NOTHING: "nothing"}

    def action(self, held: Set[str], previous: np.ndarray | int | None) -> int | None:
        together = held & self.listed.keys()
        return self._together(together) if together else super().action(held, previous)

    def _together(self, held: Set[str]) -> int:
        """The game's action that has most of the keys held: all of them, or less the ones it has no name for."""
        pressed = [
            next(iter(both), None) if len(both := [key for key in group if key in held]) == 1 else None
            for group in CHORDS
        ]
        for wanted in (
            pressed,
            [*pressed[:2], None],
            [None, *pressed[1:]],
            [None, None, pressed[2]],
            [None, pressed[1], None],
        ):
            name = "".join(STICK[key] for key in wanted if key) or "NOOP"
            if name in self.space.names:
                return self.space.names.index(name)
        return 0


class Game(gymnasium.Env):
    """One game.

    Attributes:
        ale: the emulator
        driver: who plays it from its memory, anew in every game; None where we have nobody
        blind: nobody looks at observations, so they are not drawn
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS / FRAMES}

    def __init__(
        self,
        game: str,
        shown: str = "stack",
        sticky: float = 0.0,
        noops: int = 30,
        fire: bool = True,
        one_life: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.game, self.stacked, self.noops, self.one_life, self.render_mode = (
            game,
            shown == "stack",
            noops,
            one_life,
            render_mode,
        )
        self.driver: breakout.Driver | None = None
        self.blind = False
        ale_py = import_ale()
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.loadROM(rom_path(game))
        self.keys = self.ale.getMinimalActionSet()
        self.fires = fire and ale_py.Action.FIRE in self.keys
        self._fire = ale_py.Action.FIRE
        self.observation_space = gymnasium.spaces.Box(0, 255, OBSERVATIONS[shown], np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(self.keys))
        self._seen: deque[np.ndarray] = deque(maxlen=STACK if self.stacked else 1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.driver = DRIVERS[self.game]() if self.game in DRIVERS else None
        self.ale.setInt("random_seed", int(self.np_random.integers(2**31)))
        self.ale.loadROM(rom_path(self.game))  # which is when the emulator takes the seed
        self.ale.reset_game()
        for _ in range(int(self.np_random.integers(1, self.noops + 1)) if self.noops else 0):
            self.ale.act(self.keys[0])
            if self.ale.game_over():
                self.ale.reset_game()
        self._lives = self.ale.lives()
        if self.fires:
            self._hold(self._fire)
        else:
            self._look([self._screen()])
        self._seen.extend([self._seen[-1]] * STACK)
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self._hold(self.keys[action])
        lost = self.ale.lives() < self._lives
        terminated = self.ale.game_over() or (self.one_life and lost)
        self._lives = self.ale.lives()
        if lost and not terminated and self.fires:
            reward += self._hold(self._fire)
            terminated = self.ale.game_over()
        return self._observation(), reward, terminated, False, {}

    def expert_action(self) -> int:
        assert self.driver is not None, "Atari.expert_action asks those that have one"
        return self.driver.action(self.ale.getRAM())

    def render(self) -> np.ndarray:
        """The whole screen, uint8 (210, 160, 3) or what the game has."""
        return self.ale.getScreenRGB()

    def _hold(self, key: Any) -> float:
        """Hold a key for a step, or until the episode ends; returns the points."""
        points, screens = 0.0, []
        for frame in range(FRAMES):
            points += self.ale.act(key)
            over = self.ale.game_over() or (self.one_life and self.ale.lives() < self._lives)
            if not self.blind and (frame >= FRAMES - 2 or over):
                screens.append(self._screen())
            if over:
                break
        self._look(screens)
        return points

    def _screen(self) -> np.ndarray:
        """uint8 (h, w, 1) in grey, or (h, w, 3)."""
        return self.ale.getScreenGrayscale()[..., None] if self.stacked else self.ale.getScreenRGB()

    def _look(self, screens: list[np.ndarray]) -> None:
        """See the brighter of some screens at each pixel."""
        side = SIDE if self.stacked else FRAME
        self._seen.append(
            area_resize(np.maximum.reduce(screens), side, side)
            if screens
            else np.zeros((side, side, 1 if self.stacked else 3), np.uint8)
        )

    def _observation(self) -> np.ndarray:
        return np.concatenate(self._seen, -1)


def import_ale() -> Any:
    """The package ale_py; UserError where it is missing."""
    try:
        import ale_py
        import ale_py.roms
    except ImportError as error:
        raise UserError(
            f"Atari games need the package ale-py, which cannot be imported here ({error}): run `make setup`, or `pip "
            "install -r requirements.txt`"
        ) from None
    return ale_py


def rom_path(game: str) -> Any:
    """Where ale-py has a game, by gymnasium's spelling of it, e.g. "MsPacman"; UserError where there is none."""
    roms = import_ale().roms
    known = {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}
    if game not in known:
        alike = difflib.get_close_matches(game.lower(), {name.lower(): name for name in known}, 1) or ["breakout"]
        meant = next(name for name in known if name.lower() == alike[0])
        raise UserError(
            f'there is no Atari game "{game}": choose one of ale-py\'s {len(known)}, spelt as in gymnasium, e.g. '
            f"atari:{meant}"
        )
    return roms.get_rom_path(known[game])
