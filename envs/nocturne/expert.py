"""Drivers that know the log: one that repeats it, and one that finds back to it."""

import math

import torch
from torch import Tensor

from dreamdrive.envs.nocturne.simulator import Simulator, wrap

# Gains of the way back, in the car's own terms; small enough that a step of 0.1 s is short beside them.
ALONG, PACE = 0.6, 1.6  # 1/s^2 and 1/s: acceleration for each metre and each m/s behind the log
ACROSS = 0.06  # 1/m^2: curvature for each metre beside the log ...
TURNED = 2 * math.sqrt(ACROSS)  # 1/m: ... and for each radian turned away from it, such that it is met without swinging
CURVATURE = 1.9  # at most, times the length: steering ends at 2
SLOW = 0.5  # m/s: a car that stands is not steered


def corrective_action(sim: Simulator, copy: Tensor, who: Tensor) -> Tensor:
    """(Q, 2) acceleration and steering that lead objects `who` (Q,) of copies (Q,) back to their logged paths and
    times; on the log, the log's own action."""
    state = sim.local[copy, who]
    (log, _), action = sim.logged(), sim.expert_action()
    target, (accel, steer) = log[copy, who], action[copy, who].unbind(-1)
    offset = target[:, :2] - state[:, :2]
    cos, sin = torch.cos(target[:, 2]), torch.sin(target[:, 2])
    along, across = offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin
    turned = wrap(target[:, 2] - state[:, 2])
    forwards = torch.where(target[:, 3] < 0, -1.0, 1.0)  # backwards, a turn moves the car to the other side
    length = sim.length[copy, who]
    accel = accel.nan_to_num(0.0) + ALONG * along + PACE * (target[:, 3] - state[:, 3])
    curvature = curvature_of(steer.nan_to_num(0.0), length) + ACROSS * across + TURNED * turned * forwards
    steer = steering_for(curvature, length)
    return torch.stack([accel, torch.where((state[:, 3].abs() < SLOW) & (target[:, 3].abs() < SLOW), 0.0, steer)], -1)


def curvature_of(steer: Tensor, length: Tensor) -> Tensor:
    """1/m of the bicycle's path (simulator.bicycle): the yaw rate over the speed."""
    half_slope = torch.tan(steer) / 2
    return torch.cos(torch.atan(half_slope)) * 2 * half_slope / length


def steering_for(curvature: Tensor, length: Tensor) -> Tensor:
    """The inverse of `curvature_of`; a curve tighter than steering allows gets nearly all there is."""
    product = (curvature * length).clamp(-CURVATURE, CURVATURE)
    return torch.atan(2 * product / (4 - product * product).sqrt())
