"""One scene: a map, its traffic and its pedestrians, checked, put somewhere in the world, as a dict in Nocturne's
format."""

from dataclasses import dataclass

import numpy as np

from dreamdrive.envs.nocturne.scene import DT, STEPS
from dreamdrive.envs.nocturne.synthetic import checks
from dreamdrive.envs.nocturne.synthetic import geometry as geo
from dreamdrive.envs.nocturne.synthetic.checks import Bodies
from dreamdrive.envs.nocturne.synthetic.fleet import JAM, USUAL, Density, Fleet, draw_fleet, draw_size
from dreamdrive.envs.nocturne.synthetic.junctions import crossing, roundabout
from dreamdrive.envs.nocturne.synthetic.maps import RoadMap
from dreamdrive.envs.nocturne.synthetic.open_roads import merge, road
from dreamdrive.envs.nocturne.synthetic.routes import Routes
from dreamdrive.envs.nocturne.synthetic.traffic import WARM_UP, Log, Traffic
from dreamdrive.envs.nocturne.synthetic.walkers import Walker, draw_walkers
from dreamdrive.utils.errors import UserError

# and their shares
KINDS = {"straight": 0.15, "curve": 0.15, "merge": 0.15, "signals": 0.22, "stop signs": 0.18, "roundabout": 0.15}
MOST_TRIES = 30
SPACING = 0.5  # m between the points of a drawn line
INVALID = -10000.0
FEWEST_DRIVING = 2  # vehicles that move and are there at every step
MOST_PARKED = 22  # they say little, at 6 kB each
SHORTEST = 5  # steps an object is there, or it is left out
FARTHEST = 4000.0  # m from the world's origin
AREAS = ("crosswalk", "speed_bump", "stop_sign")  # drawn by their corners alone


@dataclass(frozen=True)
class Drawn:
    """A scene and what it was made from.

    Fields:
        scene: the JSON dict
        bodies: all objects in the scene's order, in the map's coordinates
        types: (O,) their types
        member: (O,) number in the fleet, -1 for others
        tries: draws it took
    """

    scene: dict
    kind: str
    map: RoadMap
    routes: Routes
    fleet: Fleet
    log: Log
    bodies: Bodies
    types: list[str]
    member: np.ndarray
    velocity: np.ndarray
    tries: int
    complaints: list[str]


def kind_of(seed: int, index: int = 0) -> str:
    """Which of KINDS scene `index` of `seed` is."""
    return str(np.random.default_rng([seed, index]).choice(list(KINDS), p=list(KINDS.values())))


def is_jam(seed: int, index: int, jams: float) -> bool:
    """Whether there is a jam in scene `index` of `seed`, of whose scenes a share of `jams` have one."""
    return bool(np.random.default_rng([seed, index, 1]).random() < jams)


def draw(seed: int, index: int = 0, jams: float = 0.0) -> Drawn:
    """Scene `index` of `seed`: the first draw of its stream that keeps every promise."""
    stream, kind = np.random.SeedSequence([seed, index]), kind_of(seed, index)
    density = JAM if is_jam(seed, index, jams) else USUAL
    complaints: list[str] = []
    for number, child in enumerate(stream.spawn(MOST_TRIES), 1):
        result = _attempt(np.random.default_rng(child), kind, density, f"synthetic_{index:06d}.json")
        if isinstance(result, str):
            complaints.append(result)
            continue
        return Drawn(**result, kind=kind, tries=number, complaints=complaints)
    raise UserError(
        f"scene {index} of seed {seed} failed its checks {MOST_TRIES} times, the last time because {complaints[-1]}: "
        "choose another --seed"
    )


def draw_map(rng: np.random.Generator, kind: str) -> RoadMap:
    """A map of one of KINDS."""
    if kind in ("straight", "curve"):
        return road(rng, kind)
    if kind == "merge":
        return merge(rng)
    return roundabout(rng) if kind == "roundabout" else crossing(rng, kind)


def _attempt(rng: np.random.Generator, kind: str, density: Density, name: str) -> dict | str:
    """The parts of a Drawn, or what is wrong with them."""
    m = draw_map(rng, kind)
    times = (np.arange(WARM_UP + STEPS) - WARM_UP) * DT
    walkers = draw_walkers(rng, m, times)
    routes = Routes(m, float(rng.uniform(1.8, 2.8)), float(rng.uniform(1.3, 2.0)))
    fleet = draw_fleet(rng, routes, float(times[0]), float(times[-1]), density)
    log = Traffic(m, routes, fleet, walkers, times).run()
    bodies, types, member, velocity = _gather(rng, m, fleet, log, walkers)
    driving = np.flatnonzero((member >= 0) & bodies.valid.all(1) & (np.array(types) == "vehicle"))
    moved = np.hypot(*(bodies.xy[driving, -1] - bodies.xy[driving, 0]).T) > 0.2
    if moved.sum() < FEWEST_DRIVING:
        return f"only {moved.sum()} vehicles drive throughout"
    if overlap := checks.first_overlap(bodies):
        i, j, t = overlap
        return f"a {types[i]} and a {types[j]} overlap at step {t}"
    if touch := checks.first_on_edge(
        bodies, [geo.resampled(xy, SPACING) for what, xy in m.roads if what == "road_edge"]
    ):
        return f"a {types[touch[0]]} touches a road edge at step {touch[1]}"
    scene = _json(rng, m, bodies, types, velocity, name)
    return {
        "scene": scene,
        "map": m,
        "routes": routes,
        "fleet": fleet,
        "log": log,
        "bodies": bodies,
        "types": types,
        "member": member,
        "velocity": velocity,
    }


# Objects


def _gather(
    rng: np.random.Generator, m: RoadMap, fleet: Fleet, log: Log, walkers: list[Walker]
) -> tuple[Bodies, list[str], np.ndarray, np.ndarray]:
    """All objects of the scene in a random order: their bodies, types, numbers in the fleet, and velocities (O, STEPS,
    2)."""
    rows: list[tuple] = []  # xy, heading, velocity, valid, size, type, member
    for i in np.flatnonzero(log.active.sum(0) >= SHORTEST):
        velocity = log.speed[:, i, None] * geo.unit(log.course[:, i])
        rows.append(
            (
                log.xy[:, i],
                log.heading[:, i],
                velocity,
                log.active[:, i],
                (fleet.length[i], fleet.width[i]),
                "cyclist" if fleet.bike[i] else "vehicle",
                i,
            )
        )
    full = np.ones(STEPS, bool)
    for walker in walkers:
        xy = walker.xy[WARM_UP:]
        rows.append(
            (
                xy,
                walker.heading[WARM_UP:],
                np.gradient(xy, DT, axis=0),
                full,
                (walker.length, walker.width),
                "pedestrian",
                -1,
            )
        )
    parked = min(int(rng.uniform(0.15, 0.7) * len(m.bays)), MOST_PARKED)
    for k in rng.permutation(len(m.bays))[:parked]:
        x, y, heading = m.bays[k]
        size = draw_size(rng)
        while size[1] > 2.1 or size[0] > 5.6:
            size = draw_size(rng)
        at = (
            np.array([x, y])
            + rng.uniform(-0.3, 0.3) * geo.unit(heading)
            + rng.uniform(-0.08, 0.08) * geo.left_of(geo.unit(heading))
        )
        turned = heading + rng.normal(0, 0.012)
        rows.append((np.tile(at, (STEPS, 1)), np.full(STEPS, turned), np.zeros((STEPS, 2)), full, size, "vehicle", -1))
    rows = [rows[k] for k in rng.permutation(len(rows))]
    places, headings, velocities, valid, sizes, types, member = zip(*rows, strict=True)
    return (
        Bodies(np.stack(places), np.stack(headings), np.array(sizes), np.stack(valid)),
        list(types),
        np.array(member),
        np.stack(velocities),
    )


# The dict


def _points(xy: np.ndarray, decimals: int) -> list[dict]:
    return [{"x": x, "y": y} for x, y in np.round(xy, decimals).tolist()]


def _json(
    rng: np.random.Generator, m: RoadMap, bodies: Bodies, types: list[str], velocity: np.ndarray, name: str
) -> dict:
    """The scene turned and moved to a random place of the world."""
    angle, origin = rng.uniform(-np.pi, np.pi), rng.uniform(-FARTHEST, FARTHEST, 2)
    turn = np.array([geo.unit(angle), geo.left_of(geo.unit(angle))])  # rows: where the map's axes point

    def place(xy: np.ndarray) -> np.ndarray:
        return xy @ turn + origin

    objects = []
    for k, kind in enumerate(types):
        valid = bodies.valid[k]
        position = np.where(valid[:, None], place(bodies.xy[k]), INVALID)
        degrees = np.degrees(np.unwrap(bodies.heading[k]) + angle)
        degrees = degrees - 360 * np.round(degrees[valid][0] / 360)
        points = _points(position, 4)
        objects.append(
            {
                "position": points,
                "width": round(float(bodies.size[k, 1]), 3),
                "length": round(float(bodies.size[k, 0]), 3),
                "heading": np.where(valid, np.round(degrees, 5), INVALID).tolist(),
                "velocity": _points(np.where(valid[:, None], velocity[k] @ turn, INVALID), 4),
                "valid": valid.tolist(),
                "goalPosition": dict(points[int(np.flatnonzero(valid)[-1])]),
                "type": kind,
            }
        )
    roads = [
        {"geometry": _points(place(xy if kind in AREAS else geo.resampled(xy, SPACING)), 3), "type": kind}
        for kind, xy in m.roads
    ]
    lights = {}
    for number, (xy, group) in enumerate(m.lights):
        (point,) = _points(place(xy)[None], 3)
        assert m.signals is not None, "lights belong to signals"
        states = [m.signals.state(group, t * DT) for t in range(STEPS)]
        lights[str(100 + number)] = {
            "state": states,
            "x": [point["x"]] * STEPS,
            "y": [point["y"]] * STEPS,
            "time_index": list(range(STEPS)),
        }
    return {"name": name, "objects": objects, "roads": roads, "tl_states": lights}
