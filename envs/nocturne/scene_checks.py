"""Whether what a scene's file says can be true: the unit of its headings, its velocities and the time between steps
against its positions, its extent.

Each check is a pure function of columns and says in words what is wrong, or gives what it found.
"""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.scene import ABSENT, wrap

WINDOW = 10  # steps whose way tells a course and a speed: noise of a few centimetres does not, a turn hardly bends it
TELLING_WAY = 0.5  # metres of such a way, at least, for a course ...
TELLING_PACE = 1.0  # ... and for a speed, by the positions or by the velocities
STRAY_WAY, STRAY_TIMES = 100.0, 20.0  # metres, and usual segments of its element, that a road point is alone beyond
REACH = 5_000.0  # metres from the middle of the traffic that anything may be
LARGEST_BOX = 100.0  # metres
BACKWARDS = 0.3, 1.0  # m/s and metres of a way backwards that is none of noise


@dataclass(frozen=True)
class Motion:
    """Objects of a file over its F steps: kind (O,) words, position (O, F, 2) metres, heading (O, F) in the file's
    unit, velocity (O, F, 2) m/s, valid (O, F)."""

    kind: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    velocity: np.ndarray
    valid: np.ndarray

    @property
    def window(self) -> int:
        """Steps, at least 1."""
        return max(min(WINDOW, self.valid.shape[1] - 1), 1)

    def ways(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The way over each window of k steps (O, F - k, 2), and whether the log has both of its ends."""
        return self.position[:, k:] - self.position[:, :-k], self.valid[:, k:] & self.valid[:, :-k]

    def courses(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) each: headings of vehicles (or, without one that moves, of cyclists) in the middle of windows, and the
        directions that they move in there. Where nobody is that fast, the windows are half the log."""
        for kind in ("vehicle", "cyclist"):
            for k in (self.window, max(self.window, self.valid.shape[1] // 2)):
                way, there = self.ways(k)
                middle = slice(k // 2, k // 2 + way.shape[1])
                telling = there & self.valid[:, middle] & (np.hypot(way[..., 0], way[..., 1]) > TELLING_WAY)
                telling &= (self.kind == kind)[:, None]
                if telling.any():
                    return self.heading[:, middle][telling], np.arctan2(way[..., 1], way[..., 0])[telling]
        return np.empty(0), np.empty(0)

    def pace(self, dt: float) -> float:
        """How far objects go, in shares of how far their velocities would take them in steps of `dt` seconds: the
        median, an object counting by its way; NaN where nobody moves."""
        k = self.window
        way, there = self.ways(k)
        gone = np.hypot(way[..., 0], way[..., 1])
        speed = np.hypot(self.velocity[..., 0], self.velocity[..., 1]) * self.valid
        summed = np.cumsum(np.pad((speed[:, 1:] + speed[:, :-1]) / 2 * dt, ((0, 0), (1, 0))), 1)
        said = summed[:, k:] - summed[:, :-k]
        known = np.cumsum(np.pad(self.valid, ((0, 0), (1, 0))), 1)
        there &= known[:, k + 1 :] - known[:, : -k - 1] == k + 1
        telling = there & (np.maximum(gone, said) > TELLING_PACE * k * dt)
        gone, said = (gone * telling).sum(1), (said * telling).sum(1)
        some = np.flatnonzero(telling.any(1))
        if not len(some):
            return np.nan
        with np.errstate(divide="ignore"):
            ratio = gone[some] / said[some]
        order = np.argsort(ratio)
        weight = np.cumsum((gone + said)[some][order])
        return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)])


def unit_of_headings(kind: str, marked: bool, motion: Motion) -> tuple[str, str]:
    """(Which kind of file, "nocturne" in degrees or "gpudrive" in radians, the complaint or ""): by the way vehicles
    go, forwards or backwards; where it tells nothing, as `kind` says, or, for "auto", whether GPUDrive's fields are
    there (`marked`)."""
    usual = kind if kind != "auto" else "gpudrive" if marked else "nocturne"
    other = "nocturne" if usual == "gpudrive" else "gpudrive"
    unit = {"nocturne": "degrees", "gpudrive": "radians"}
    heading, course = motion.courses()
    if len(course):
        fit, other_fit = (Fit.of(heading, course, name == "nocturne") for name in (usual, other))
        if other_fit.better_than(fit):
            if kind == "auto" and not marked:
                return other, ""
            return usual, f"point (are they {unit[other]}?)"
        return usual, "" if fit.axis >= 0.5 else "point, nor in the other unit"
    seen = np.abs(motion.heading[motion.valid & np.isin(motion.kind, ("vehicle", "cyclist"))[:, None]])
    if kind == "auto" and not marked and seen.max(initial=0) > 0.05 and seen.max() <= 2 * np.pi:
        return usual, "stand, so that whether headings are degrees or radians cannot be told"
    return usual, ""


@dataclass(frozen=True)
class Fit:
    """How well headings fit courses: the share that lies along them, the share that points their way, and the mean sine
    of the angle between."""

    axis: float
    ahead: float
    error: float

    @classmethod
    def of(cls, heading: np.ndarray, course: np.ndarray, degrees: bool) -> "Fit":
        turned = wrap((np.radians(heading) if degrees else heading) - course)
        sine = np.abs(np.sin(turned))
        return cls(float((sine < 0.3).mean()), float((np.abs(turned) < 0.3).mean()), float(sine.mean()))

    def better_than(self, than: "Fit") -> bool:
        """Clearly."""
        return self.axis >= 0.5 and (
            self.axis > than.axis + 0.2
            or (self.axis > than.axis - 0.1 and self.ahead > than.ahead + 0.3)
            or (self.error < than.error / 2 and than.error - self.error > 0.05)
        )


def backwards(motion: Motion, heading: np.ndarray, dt: float) -> np.ndarray:
    """(O, F) bool: steps at which vehicles drive backwards, of those that do so for a metre or more; `heading` in
    radians."""
    along = motion.velocity[..., 0] * np.cos(heading) + motion.velocity[..., 1] * np.sin(heading)
    speed = np.hypot(motion.velocity[..., 0], motion.velocity[..., 1])
    slow, short = BACKWARDS
    back = motion.valid & (along < -0.5 * speed) & (speed > slow) & (motion.kind == "vehicle")[:, None]
    return back & ((speed * back).sum(1) * dt > short)[:, None]


def velocities(motion: Motion, dt: float) -> np.ndarray:
    """(O, F, 2) m/s by the positions: over two steps, or one at the ends of a gap; 0 for a step alone."""
    step = np.diff(motion.position, axis=1) / dt
    known = (motion.valid[:, 1:] & motion.valid[:, :-1])[..., None]
    total = np.zeros_like(motion.position)
    count = np.zeros((*motion.valid.shape, 1))
    for side in (slice(None, -1), slice(1, None)):
        total[:, side] += np.where(known, step, 0.0)
        count[:, side] += known
    return total / np.maximum(count, 1)


def far_object(motion: Motion, middle: np.ndarray) -> tuple[int, int, float] | None:
    """(Object, step, metres) of one that is valid further from `middle` than anything may be."""
    away = np.where(motion.valid, np.linalg.norm(motion.position - middle, axis=-1), 0.0)
    found = np.unravel_index(int(away.argmax()), away.shape)
    return (int(found[0]), int(found[1]), float(away[found])) if away[found] > REACH else None


def middle_of(motion: Motion) -> np.ndarray:
    """(2,) in the middle of the traffic, whatever a stray step says."""
    return np.median(motion.position[motion.valid], axis=0)


def placed(line: np.ndarray) -> np.ndarray:
    """(n,) bool: points that are no marker of a place that is missing."""
    return ~(line == ABSENT).all(1)


def stray_point(line: np.ndarray, middle: np.ndarray) -> tuple[int, float, str] | None:
    """(Number, metres, from what) of a road point that lies further from the traffic than anything may, or that alone
    is far from those before and after it."""
    away = np.linalg.norm(line - middle, axis=1)
    if away.max() > REACH:
        return int(away.argmax()), float(away.max()), "the traffic"
    if len(line) < 4:
        return None
    step = np.linalg.norm(np.diff(line, axis=0), axis=1)
    if step.max() <= STRAY_WAY:
        return None
    jump = np.pad(step > max(STRAY_WAY, STRAY_TIMES * float(np.median(step))), 1, constant_values=True)
    alone = np.flatnonzero(jump[1:] & jump[:-1])
    return (int(alone[0]), float(step[max(alone[0] - 1, 0)]), "the points beside it") if len(alone) else None
