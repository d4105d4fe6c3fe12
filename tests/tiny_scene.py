"""Small scenes in Nocturne's JSON, and where Nocturne's own results lie."""

import json
import math
from pathlib import Path

import pytest

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "nocturne"
needs_oracle = pytest.mark.skipif(not ORACLE.exists(), reason=f"needs Nocturne's results, {ORACLE}")
NAMES = ("example_scenario", "synthetic_tl", "tfrecord-00000-of-01000_325", "tfrecord-00000-of-01000_4")
STEPS = 91


def car(
    x: float = 0.0,
    y: float = 0.0,
    heading: float = 0.0,
    speed: float = 5.0,
    kind: str = "vehicle",
    size: tuple[float, float] = (4.0, 2.0),
    valid=None,
    steps: int = STEPS,
    dt: float = 0.1,
) -> dict:
    """An object that goes straight on, backwards with a negative speed; heading in radians; `valid` (steps,) says where
    the log has it."""
    vx, vy = speed * math.cos(heading), speed * math.sin(heading)
    valid = [True] * steps if valid is None else list(valid)
    there = [(x + dt * t * vx, y + dt * t * vy) if v else (-10000.0, -10000.0) for t, v in enumerate(valid)]
    last = max((t for t in range(len(valid)) if valid[t]), default=0)
    return {
        "position": [{"x": a, "y": b} for a, b in there],
        "heading": [math.degrees(heading) if v else -10000.0 for v in valid],
        "velocity": [{"x": vx, "y": vy} if v else {"x": -10000.0, "y": -10000.0} for v in valid],
        "valid": valid,
        "length": size[0],
        "width": size[1],
        "goalPosition": {"x": there[last][0], "y": there[last][1]},
        "type": kind,
    }


def road(kind: str, *points: tuple[float, float]) -> dict:
    return {"type": kind, "geometry": [{"x": float(x), "y": float(y)} for x, y in points]}


def scene_of(objects: list[dict], roads: list[dict] = (), lights: dict | None = None) -> dict:
    return {"name": "tiny.json", "objects": list(objects), "roads": list(roads), "tl_states": lights or {}}


def gpudrive(scene: dict, **more) -> dict:
    """The same in GPUDrive's format: headings in radians, and the fields that it added."""
    objects = [
        {**o, "heading": [math.radians(h) for h in o["heading"]], "id": 10 + i, "mark_as_expert": False}
        for i, o in enumerate(scene["objects"])
    ]
    return {**scene, "objects": objects, "scenario_id": "abc", "metadata": {"sdc_track_index": 0}, **more}


def write(folder: Path, content, name: str = "tiny.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
