"""How a scene's vehicles depend on each other, and how well Nocturne's dynamics reproduce them.

An ego is a vehicle that is there at all 91 steps, moves (faster than 0.05 m/s once, or ends more than 0.2 m away), and
whose expert actions are all defined. From step 10 on, everybody else replaying, an ego is asked three things:

    must_act      does it hit somebody or an edge, or miss its goal by more than a metre, if it keeps its velocity?
    must_react    does it hit somebody on its own path, driven as fast as its driver would on an empty road without
    lights and signs?
    must_yield    the same, before it has come to its goal?
"""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.car_following import free_acceleration
from dreamdrive.envs.nocturne.scene import DT, STEPS
from dreamdrive.envs.nocturne.synthetic import checks
from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.fleet import Fleet
from dreamdrive.envs.nocturne.synthetic.scenes import Drawn
from dreamdrive.envs.nocturne.synthetic.traffic import advance, wanted_speed

RELEASED = 10  # the step at which an ego is on its own
GOAL_RADIUS = 1.0  # m


@dataclass(frozen=True)
class Motion:
    """The vehicles of a scene file that are egos, as arrays: rows (E,) numbers in the file's objects, sizes (E,) m, the
    rest (E, STEPS[, 2])."""

    rows: np.ndarray
    length: np.ndarray
    xy: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    steering: np.ndarray


@dataclass(frozen=True)
class Interactions:
    """Numbers of egos of one scene, and the distances (E,) m by which an open-loop replay of their actions misses."""

    kind: str
    tries: int
    vehicles: int
    egos: int
    must_act: int
    must_react: int
    must_yield: int
    drift: np.ndarray


def wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def vectors(rows: list[dict]) -> np.ndarray:
    """(T, 2) of a list of {x, y}."""
    return np.array([[row["x"], row["y"]] for row in rows])


def expert_motion(scene: dict) -> Motion:
    """The egos of a scene in Nocturne's format, with their expert actions (E, STEPS - 1)."""
    found = []
    for k, thing in enumerate(scene["objects"]):
        if thing["type"] != "vehicle" or not all(thing["valid"]):
            continue
        xy, heading, speed = (
            vectors(thing["position"]),
            np.radians(thing["heading"]),
            np.hypot(*vectors(thing["velocity"]).T),
        )
        if not (speed > 0.05).any() and np.hypot(*(xy - xy[-1]).T).max() <= 0.2:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            curvature = 2 * thing["length"] * wrapped(np.diff(heading)) / DT / (speed[1:] + speed[:-1])
            steering = np.arctan(2 * curvature / np.sqrt(4 - curvature**2))
        if np.isfinite(steering).all():
            found.append((k, thing["length"], xy, heading, speed, np.diff(speed) / DT, steering))
    if not found:
        return Motion(
            np.zeros(0, int),
            np.zeros(0),
            np.zeros((0, STEPS, 2)),
            *(np.zeros((0, STEPS)),) * 2,
            *(np.zeros((0, STEPS - 1)),) * 2,
        )
    return Motion(*(np.array(column) for column in zip(*found, strict=True)))


def replayed(motion: Motion) -> np.ndarray:
    """(E, STEPS, 2) positions of the egos when Nocturne's dynamics are driven by the expert actions from step 0."""
    xy, heading, speed = motion.xy[:, 0].copy(), motion.heading[:, 0].copy(), motion.speed[:, 0].copy()
    rows = [xy.copy()]
    for t in range(STEPS - 1):
        steer, mean = motion.steering[:, t], speed + motion.acceleration[:, t] * DT / 2
        beta = np.arctan(np.tan(steer) / 2)
        xy += DT * mean[:, None] * geo.unit(heading + beta)
        heading += DT * mean * np.cos(beta) * np.tan(steer) / motion.length
        speed += motion.acceleration[:, t] * DT
        rows.append(xy.copy())
    return np.stack(rows, axis=1)


def drift(scene: dict) -> np.ndarray:
    """(E,) m between the egos' last positions and those of the open-loop replay of their actions."""
    motion = expert_motion(scene)
    return np.hypot(*(replayed(motion)[:, -1] - motion.xy[:, -1]).T)


def interactions_of(drawn: Drawn) -> Interactions:
    """What the egos of a scene have to do with others."""
    motion = expert_motion(drawn.scene)
    act, react, give_way = 0, 0, 0
    paths = free_paths(drawn, motion.rows)
    for row, (xy, heading, first_at_goal) in zip(motion.rows, paths, strict=True):
        act += fails_at_constant_velocity(drawn, row)
        hits = hits_at(drawn, row, xy, heading)
        react += bool(hits.any())
        give_way += bool(hits[:first_at_goal].any())
    return Interactions(
        drawn.kind,
        drawn.tries,
        int((drawn.member >= 0).sum()),
        len(motion.rows),
        act,
        react,
        give_way,
        drift(drawn.scene),
    )


def free_paths(drawn: Drawn, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """For every ego: centre (STEPS - RELEASED, 2) and heading (STEPS - RELEASED,) when it drives its route as if alone,
    and the first step at its goal."""
    member, log, fleet, routes = drawn.member[rows], drawn.log, drawn.fleet, drawn.routes
    driver = {name: value[member] for name, value in fleet.driver.items()} | {"slow_factor": np.ones(len(member))}
    alone = Fleet(
        fleet.route[member],
        fleet.length[member],
        fleet.width[member],
        fleet.bike[member],
        fleet.appears[member],
        driver,
        log.s[RELEASED, member].copy(),
        log.speed[RELEASED, member].copy(),
    )
    alone.xy, alone.heading = log.xy[RELEASED, member].copy(), log.heading[RELEASED, member].copy()
    everybody, states, arcs = np.arange(len(member)), [], []
    for t in range(RELEASED, STEPS):
        states.append((alone.xy.copy(), alone.heading.copy()))
        arcs.append(alone.s.copy())
        wanted = wanted_speed(routes, alone.route, alone.s, alone.v, driver, t * DT)
        after = np.maximum(
            alone.v + DT * free_acceleration(alone.v, wanted, driver["accelerates"], driver["brakes"]), 0
        )
        advance(routes, alone, everybody, (alone.v + after) / 2 * DT)
        alone.v = after
    if not len(member):
        return []
    at_goal = np.array(arcs) > log.s[-1, member] - GOAL_RADIUS
    firsts = np.where(at_goal.any(0), at_goal.argmax(0), len(arcs))
    return [
        (np.array([xy[e] for xy, _ in states]), np.array([heading[e] for _, heading in states]), int(firsts[e]))
        for e in everybody
    ]


def hits_at(drawn: Drawn, row: int, xy: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """(STEPS - RELEASED,) whether object `row`, moved to `xy` and `heading`, touches another valid one."""
    b = drawn.bodies
    hits = np.zeros(len(xy), bool)
    apart = np.hypot(*np.moveaxis(b.xy[:, RELEASED:] - xy, -1, 0))
    reach = np.hypot(*b.size.T) / 2
    near = (apart < (reach + reach[row])[:, None]) & b.valid[:, RELEASED:]
    near[row] = False
    j, t = np.nonzero(near)
    if len(j):
        one = checks.corners(xy[t], heading[t], np.broadcast_to(b.size[row], (len(t), 2)))
        touch = checks.rectangles_touch(
            one, checks.corners(b.xy[j, t + RELEASED], b.heading[j, t + RELEASED], b.size[j])
        )
        hits[t[touch]] = True
    return hits


def fails_at_constant_velocity(drawn: Drawn, row: int) -> bool:
    """Whether object `row`, going straight on at its speed and heading of the step RELEASED, hits something or misses
    its goal."""
    b = drawn.bodies
    speed, heading = np.hypot(*drawn.velocity[row, RELEASED]), b.heading[row, RELEASED]
    xy = b.xy[row, RELEASED] + speed * DT * np.arange(STEPS - RELEASED)[:, None] * geo.unit(heading)
    fixed = np.full(len(xy), heading)
    if np.hypot(*(xy - b.xy[row, -1]).T).min() > GOAL_RADIUS or hits_at(drawn, row, xy, fixed).any():
        return True
    alone = checks.Bodies(xy[None], fixed[None], b.size[row : row + 1], np.ones((1, len(xy)), bool))
    return (
        checks.first_on_edge(alone, [geo.resampled(line, 0.5) for kind, line in drawn.map.roads if kind == "road_edge"])
        is not None
    )
