"""The official gymnasium CarRacing-v3 as a world, with the paper's frame, and a driver of ours that reads the
simulator's state."""

import math
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch

from dreamdrive.envs.catalogue import PERTURBATIONS
from dreamdrive.envs.gym_adapter import Advance, GymWorld, area_resize
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.keys import Keys, driving_keys
from dreamdrive.utils.spaces import ActionSpace

FRAME = 64  # side of a frame, pixels
PICTURE_ROWS = 84  # rows of the observation above the black instrument panel
SIMULATOR = "dreamdrive/CarRacing-v3"

# imports Box2D when it is made, not before
gymnasium.register(SIMULATOR, entry_point="dreamdrive.envs.carracing_simulator:CulledCarRacing", max_episode_steps=1000)


def frame(observation: np.ndarray) -> np.ndarray:
    """The paper's frame: observation uint8 (96, 96, 3) without its instrument panel, area-resized to uint8 (64, 64,
    3)."""
    return area_resize(observation[:PICTURE_ROWS], FRAME, FRAME)


class CarRacing(GymWorld):
    """`num` official CarRacing-v3 with frames uint8 (64, 64, 3); action (B, 3): steering -1 (left) to 1, gas and brake
    0 to 1."""

    NUMBERS = None
    OPPOSED = ((1, 2),)
    MIRROR = (-1.0, 1.0, 1.0)

    def __init__(
        self,
        num: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int = 1000,
        restart: bool = True,
        perturb: str | None = None,
    ) -> None:
        if perturb not in (None, *PERTURBATIONS):
            raise UserError(f'CarRacing has no perturbation "{perturb}": choose {", ".join(PERTURBATIONS)}')
        super().__init__(SIMULATOR, num, device, max_steps, restart, FRAME)
        options = {"perturb": perturb} if perturb else {}
        # networks see its actions as they are, which are small
        self.spec = replace(self.spec, name="carracing", action_scale=None, action_center=None, options=options)
        self._drivers: list[Driver | None] = [None] * num  # made for an episode when first asked
        self._perturbation = None
        if perturb:
            from dreamdrive.envs.carracing_perturbed import Perturbation  # which imports pygame and Box2D

            self._perturbation = Perturbation(perturb, num)
        self.seen_apart = bool(options)  # the simulator's own picture is without bars and blob

    @classmethod
    def keys(cls, space: ActionSpace) -> Keys:
        return driving_keys(space)

    def expert_action(self) -> torch.Tensor:
        """(B, 3) float32: what our driver would do now."""
        drivers = [
            driver or Driver(environment.unwrapped)
            for driver, environment in zip(self._drivers, self._environments, strict=True)
        ]
        self._drivers[:] = drivers
        return self._tensor(np.stack([driver.action() for driver in drivers]))

    def look_away(self) -> None:
        for environment in self._environments:
            environment.unwrapped.blind = True

    def _start(self, copy: int, seed: int) -> Any:
        self._drivers[copy] = None
        if self._perturbation is None:
            return super()._start(copy, seed)
        simulator = self._environments[copy].unwrapped
        self._perturbation.prepare(copy, seed, simulator)
        observation = super()._start(copy, seed)
        self._perturbation.begin(copy, seed, simulator)
        return observation

    def _advance(self, copy: int, action: np.ndarray | int) -> Advance:
        if self._perturbation is not None:
            action = self._perturbation.action(copy, np.asarray(action))
        return super()._advance(copy, action)

    def _show(self, copies: list[int], frames: torch.Tensor) -> None:
        if self._perturbation is not None:
            seconds = [self._environments[copy].unwrapped.t for copy in copies]
            frames = self._perturbation.seen(frames, seconds)
        super()._show(copies, frames)

    def _held(self, copy: int, action: np.ndarray | int) -> Advance:
        simulator = self._environments[copy].unwrapped
        if self._repeat == 1 or simulator.blind:
            return super()._held(copy, action)
        simulator.blind = True  # drawing is what costs, and only the last picture is looked at
        advance = super()._held(copy, action)
        simulator.blind = False
        return advance._replace(observation=simulator._render("state_pixels"))

    def _frame(self, copy: int, observation: np.ndarray) -> np.ndarray:
        return frame(observation)


@dataclass(frozen=True)
class Driving:
    """Constants of the driver, rounded from the best of a random search over recording seeds; in the simulator's units
    (a road is 13.3 wide) and seconds.

    Fields:
        margin: how far the racing line may leave the centre line
        corner_grip: sideways acceleration the speed profile allows (the tyres give 219 on road)
        brake_grip: braking the speed profile counts on
        top_speed: speed never to exceed
        look_distance, look_time: the car aims at the point of the racing line this far ahead, distance + time * speed
        yaw_gain: steering (rad) per rad/s of difference between the wanted and the real yaw rate; damps the tail
        speed_gain: acceleration wanted per unit of speed error
        gas_share: share of the rear tyres' spare grip that gas may use
        lost_grip: corner_grip for a car that has lost the line and finds its way back
    """

    margin: float = 3.0
    corner_grip: float = 175.0
    brake_grip: float = 105.0
    top_speed: float = 100.0
    look_distance: float = 6.0
    look_time: float = 0.14
    yaw_gain: float = 0.03
    speed_gain: float = 17.0
    gas_share: float = 0.85
    lost_grip: float = 75.0


# The car, from gymnasium's car_dynamics.py. Its wheels carry much inertia (5.5 each, as seen from the road, in a car of
# 7.3), hence the figures.
HALF_ROAD = 40 / 6
WHEELBASE = (80 + 82) * 0.02
MAX_STEER = 0.4  # limit of the front joints, rad
GRIP = 219.0  # sideways or in braking: four tyres' limit of 400 each, on the car's mass of 7.3
GAS_GRIP = 43.7  # acceleration at which the rear tyres slip: twice 400, on car and front wheels
GAS_ACCELERATION = 5070.0  # acceleration = this * gas / (omega + 5), omega the rear wheels' rotation in rad/s
BRAKE_ACCELERATION = 304.0  # deceleration = this * brake
SAFE_BRAKE = 0.6  # below what locks the wheels
SLIDE = 6.0  # sideways speed from which the car slides
TURNING_RADIUS = 8.0  # at full steering
LOST_BEARING = 0.8  # rad: a car that has to turn more than this to face its target is lost
LINE_STEPS = 300  # of gradient descent on the racing line


def wrap(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def racing_line(centre: np.ndarray, heading: np.ndarray, margin: float) -> np.ndarray:
    """The line (N, 2) of least squared second difference, so of least bending, within `margin` of the closed centre
    line (N, 2)."""
    normal = np.stack([np.cos(heading), np.sin(heading)], -1)  # to the right
    # gradient of the sum of squared second differences, in terms of ...
    stencil = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
    neighbours = (np.arange(len(centre))[:, None] + np.arange(-2, 3)) % len(centre)  # ... these points (N, 5)
    hessian = stencil * (normal[:, None] * normal[neighbours]).sum(-1)
    gradient = (normal * (stencil[:, None] * centre[neighbours]).sum(1)).sum(-1)
    offset, previous = np.zeros(len(centre)), np.zeros(len(centre))
    # accelerated projected gradient (Beck & Teboulle 2009); 16 bounds the curvature of the sum
    for k in range(LINE_STEPS):
        ahead = offset + k / (k + 3) * (offset - previous)
        previous, offset = (
            offset,
            np.clip(ahead - ((hessian * ahead[neighbours]).sum(1) + gradient) / 16, -margin, margin),
        )
    return centre + offset[:, None] * normal


def speed_profile(line: np.ndarray, driving: Driving) -> tuple[np.ndarray, np.ndarray]:
    """(speed (N,) at each point, length (N,) of the piece that follows it): corner speed, lowered wherever the brakes
    need it sooner."""
    before, after = line - np.roll(line, 1, 0), np.roll(line, -1, 0) - line
    length = np.hypot(after[:, 0], after[:, 1])
    turn = np.arctan2(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0], (before * after).sum(-1))
    curvature = np.abs(turn) / (0.5 * (length + np.roll(length, 1)))
    speed = np.minimum(np.sqrt(driving.corner_grip / np.maximum(curvature, 1e-6)), driving.top_speed).tolist()
    for i in range(2 * len(speed) - 1, -1, -1):  # twice round, as the line is closed
        here, there = i % len(speed), (i + 1) % len(speed)
        speed[here] = min(speed[here], math.sqrt(speed[there] ** 2 + 2 * driving.brake_grip * length[here]))
    return np.array(speed), length


class Driver:
    """Drives one episode of one simulator from its track and car state: a racing line, a speed at each point of it,
    pure pursuit.

    Works from any state the car can get into (spun, backwards, on the grass), so that disturbed recordings show
    recoveries.
    """

    def __init__(self, simulator: Any, driving: Driving | None = None):
        self.car, self.driving = simulator.car, driving or Driving()
        track = np.array(simulator.track)  # (N, 4): alpha, heading, x, y
        self.line = racing_line(track[:, 2:], track[:, 1], self.driving.margin)
        self.speed, self.length = speed_profile(self.line, self.driving)
        self.index = 0  # of the point of the line the car is at

    def action(self) -> np.ndarray:
        """(3,) float32: steering, gas, brake."""
        hull, driving = self.car.hull, self.driving
        x, y = hull.worldCenter
        vx, vy = hull.linearVelocity
        heading = hull.angle + math.pi / 2
        forward, side = vx * math.cos(heading) + vy * math.sin(heading), vy * math.cos(heading) - vx * math.sin(heading)
        distance = self._locate(x, y)

        target_x, target_y = self._ahead(max(driving.look_distance + driving.look_time * max(forward, 0.0), distance))
        # a moving car goes where its velocity points, not its nose
        course = math.atan2(vy, vx) if forward > 5 else heading
        bearing = wrap(math.atan2(target_y - y, target_x - x) - course)
        chord = max(math.hypot(target_x - x, target_y - y), 1.0)
        # of the arc to the target; tightest if it is behind
        curvature = 2 * math.sin(float(np.clip(bearing, -math.pi / 2, math.pi / 2))) / chord
        steer = math.atan(WHEELBASE * curvature) + driving.yaw_gain * (curvature * forward - hull.angularVelocity)

        lost = distance > HALF_ROAD or abs(bearing) > LOST_BEARING
        grip = driving.lost_grip if lost else driving.corner_grip
        wanted = min(self.speed[self.index], math.sqrt(grip / min(max(abs(curvature), 1e-6), 1 / TURNING_RADIUS)))
        gas, brake = self._pedals(driving.speed_gain * (wanted - forward), forward, side)
        return np.array([np.clip(-steer, -MAX_STEER, MAX_STEER), gas, brake], np.float32)

    def _locate(self, x: float, y: float) -> float:
        """Note the point of the line the car is at, and return its distance.

        It is looked for near the last one: a car that left the road goes back to where it left, lest it miss tiles.
        Only if it is on another piece of road by now it drives on from there.
        """
        near = (self.index + np.arange(-10, 20)) % len(self.line)
        distance = np.hypot(self.line[:, 0] - x, self.line[:, 1] - y)
        nearest, anywhere = int(near[distance[near].argmin()]), int(distance.argmin())
        self.index = anywhere if distance[nearest] > 2 * HALF_ROAD and distance[anywhere] < HALF_ROAD else nearest
        return float(distance[self.index])

    def _ahead(self, distance: float) -> np.ndarray:
        """The point (2,) of the line `distance` further on."""
        i = self.index
        while distance > self.length[i]:
            distance -= self.length[i]
            i = (i + 1) % len(self.line)
        return self.line[i] + distance / self.length[i] * (self.line[(i + 1) % len(self.line)] - self.line[i])

    def _pedals(self, acceleration: float, forward: float, side: float) -> tuple[float, float]:
        """(gas, brake) for a wanted acceleration, within what the tyres have to spare: this car spins at once under gas
        in a slide."""
        if acceleration < 0:
            return 0.0, min(-acceleration / BRAKE_ACCELERATION, SAFE_BRAKE)
        if abs(side) > SLIDE:
            return 0.0, 0.0
        used = min(abs(forward * self.car.hull.angularVelocity) / GRIP, 1.0)  # share of the grip that the corner takes
        acceleration = min(acceleration, self.driving.gas_share * math.sqrt(1 - used**2) * GAS_GRIP)
        rotation = max(0.0, *(wheel.omega for wheel in self.car.wheels[2:]))
        return min(acceleration * (rotation + 5) / GAS_ACCELERATION, 1.0), 0.0
