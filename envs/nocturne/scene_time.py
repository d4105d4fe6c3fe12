"""How far apart in time the steps of a scene's file are."""

import math
from typing import Any

import numpy as np

from dreamdrive.envs.catalogue import SCENE_RATES
from dreamdrive.envs.nocturne.scene import STEPS
from dreamdrive.envs.nocturne.scene_checks import Motion

SECONDS = ("dt", "time_step", "timestep")
RATES = ("rate", "sample_rate", "frequency", "fps")
STAMPS = ("timestamps_seconds", "timestamps", "ts")
UNITS = (1.0, 1e-3, 1e-6, 1e-9)  # seconds, of time stamps
RIGHT = 0.75, 1.33  # of the way that velocities say, what objects may go


def stated_rate(meta: dict, steps: int) -> int | str | None:
    """Steps a second by what a file says of itself; a complaint where they are none that can be read; None where it
    says nothing."""
    seconds = next((1 / meta[key] for key in RATES if _positive(meta.get(key))), None)
    seconds = next((float(meta[key]) for key in SECONDS if _positive(meta.get(key))), seconds)
    for key in STAMPS:
        stamps = meta.get(key)
        if isinstance(stamps, list) and len(stamps) == steps and all(_number(s) for s in stamps):
            between = float(np.median(np.diff(np.array(stamps, np.float64))))
            seconds = next((between * unit for unit in UNITS if 0.01 <= between * unit <= 2), between)
    if seconds is None:
        return None
    found = next((rate for rate in SCENE_RATES if math.isclose(seconds * rate, 1, rel_tol=0.1)), None)
    wanted = " or ".join(f"{1 / rate:g}" for rate in SCENE_RATES)
    return found or f"has steps {seconds:g} s apart where {wanted} s were wanted"


def paced(motion: Motion, rate: int | None) -> tuple[int | None, str | None]:
    """(Steps a second, complaint): whether objects go as far as their velocities say. Where the rate is not known, a
    log of more steps than a scene has in which they go half as far is one of twice the rate."""
    pace = motion.pace(1 / (rate or SCENE_RATES[0]))
    least, most = RIGHT
    if math.isnan(pace) or least <= pace <= most:
        return rate, None
    usual, double = SCENE_RATES
    if rate is None and motion.valid.shape[1] > STEPS and least <= pace * double / usual <= most:
        return double, None
    return rate, (
        f"go {pace:.2f} times as far as their velocities say: give --scene-speeds positions for speeds "
        f"by the positions, --scene-speeds file for those of the file, or --scene-rate {double} where steps are "
        f"{1 / double:g} s apart"
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0
