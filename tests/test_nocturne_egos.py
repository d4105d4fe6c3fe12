"""Who is driven in scenes of a folder, for how long, and that no ego counts twice; which files are passed over."""

import argparse
import json

import numpy as np
import pytest

from dreamdrive import envs
from dreamdrive.driving.evaluation import Driven
from dreamdrive.driving.scoring import worst
from dreamdrive.envs.nocturne import folder_index, inspection, load_scene
from dreamdrive.envs.nocturne.egos import drivable, movers
from dreamdrive.envs.nocturne.folder_index import INDEX
from dreamdrive.envs.nocturne.pool import FolderPool
from dreamdrive.envs.nocturne.reading import Reading
from dreamdrive.envs.nocturne.world import Nocturne
from dreamdrive.tests.tiny_scene import STEPS, car, gpudrive, road, scene_of, write
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import evaluation_seeds


def standing(first: int, last: int, y: float = 0.0) -> dict:
    """A car that stands from step `first` to step `last`, and brakes and accelerates around them."""
    made, steps = car(y=y), np.arange(STEPS)
    speed = 5.0 * np.clip(np.maximum(first - steps, steps - last) / 10, 0, 1)
    x = np.concatenate([[0.0], np.cumsum(speed[1:] + speed[:-1]) * 0.05])
    made["position"] = [{"x": float(at), "y": y} for at in x]
    made["velocity"] = [{"x": float(v), "y": 0.0} for v in speed]
    made["goalPosition"] = dict(made["position"][-1])
    return made


def driven(folder, **options):
    made = envs.make("nocturne", num=1, scenes=str(folder), restart=False, **options)
    made.look_away()
    return made


def chosen(tmp_path, *objects: dict, roads=(), warmup: int = 10, **more) -> list[int]:
    scene = load_scene(write(tmp_path, gpudrive(scene_of(objects, roads), **more)))
    return scene.ids[movers(scene, warmup)].tolist()


def test_egos_are_vehicles_that_move_and_are_there_long_enough(tmp_path):
    objects = [
        car(),
        car(y=10, speed=0.0),
        car(y=20, kind="pedestrian", speed=1.0),
        car(y=30, valid=[t < 60 for t in range(STEPS)]),  # leaves
        car(y=40, valid=[t >= 5 for t in range(STEPS)]),  # comes before the warm-up is over
        car(y=50, valid=[t >= 11 for t in range(STEPS)]),  # comes later
        car(y=60, valid=[t < 19 for t in range(STEPS)]),  # leaves at once
        car(y=70, valid=[not 40 <= t < 45 for t in range(STEPS)]),  # is lost for half a second
        car(y=80, valid=[not 40 <= t < 60 for t in range(STEPS)]),  # is lost for long
    ]
    scene = load_scene(write(tmp_path, gpudrive(scene_of(objects))))
    assert scene.json_index[movers(scene)].tolist() == [0, 3, 7, 4]


def test_those_that_are_marked_touch_something_or_are_at_their_goal_are_left_out(tmp_path):
    marked = gpudrive(scene_of([car(), car(y=10)]))
    marked["objects"][0]["mark_as_expert"] = True
    scene = load_scene(write(tmp_path, marked))
    assert scene.marked == (0,) and scene.ids[movers(scene)].tolist() == [1]
    assert chosen(tmp_path, car(), car(x=1.0, y=1.0), car(y=20)) == [2]  # two overlap
    assert chosen(tmp_path, car(), car(y=20), roads=[road("road_edge", (5, -3), (5, 3))]) == [1]
    loop = car(speed=2 * np.pi)  # it goes round, and its goal is where it is after the warm-up
    loop["goalPosition"] = dict(loop["position"][10])
    assert chosen(tmp_path, loop, car(y=20)) == [1] and chosen(tmp_path, loop, car(y=20), warmup=0) == [0, 1]
    assert chosen(tmp_path, standing(8, STEPS - 1), car(y=20)) == [1]  # it has arrived


def test_an_ego_that_waits_stays_in_and_demonstrates_it(tmp_path):
    write(tmp_path, scene_of([standing(20, 50)]))
    made = driven(tmp_path)
    made.reset([0])
    actions, speeds = [], []
    for _ in range(80):
        speeds.append(float(made.sim.local[0, made.egos[0], 3]))
        actions.append(made.expert_action()[0].numpy())
        if made.step(made.expert_action()).info["goal"][0]:
            break
    assert np.isfinite(actions).all() and np.abs(speeds[25:39]).max() < 0.2 < np.abs(speeds[50:60]).min()
    assert made.outcome()["goal_rate"] == 1 and made.outcome()["ade"] < 0.2


@pytest.mark.parametrize("speed", [5.0, -3.0])
def test_the_expert_follows_egos_that_leave_are_lost_or_drive_backwards(tmp_path, speed):
    objects = [
        car(speed=speed, valid=[t < 60 for t in range(STEPS)]),
        car(y=20, speed=speed, valid=[not 40 <= t < 45 for t in range(STEPS)]),
    ]
    write(tmp_path, scene_of(objects))
    made = envs.make("nocturne", num=2, scenes=str(tmp_path), restart=False)
    made.look_away()
    made.reset([0, 1])
    made.sim.local[[0, 1], made.egos, 1] += 0.4  # pushed aside
    made.sim.local[[0, 1], made.egos, 2] += 0.1
    steps = [made.step(made.expert_action()) for _ in range(80)]
    assert made.outcome()["goal_rate"].tolist() == [1, 1] and made.outcome()["ade"].max() < 0.4
    ended = [next(t for t, s in enumerate(steps, 1) if s.terminated[b]) for b in (0, 1)]
    assert ended[0] <= 49 and 70 < ended[1] <= 80


def test_an_episode_ends_with_the_egos_log(tmp_path):
    write(tmp_path, scene_of([car(valid=[t < 60 for t in range(STEPS)]), car(y=20)]))
    write(tmp_path, scene_of([car(steps=41)]), "short.json")
    made = driven(tmp_path)
    lengths = []
    for seed in range(3):
        made.reset([seed])
        while not made.over[0]:
            made.step(made._as_action(made.expert_action() * 0 - 1.0))
        lengths.append(int(made.steps[0]))
    assert sorted(lengths) == [30, 49, 80]


def test_the_self_driving_car_tracks_and_ids_can_be_asked_for(tmp_path):
    meta = {"sdc_track_index": 2, "tracks_to_predict": [{"track_index": 1, "difficulty": 0}, {"track_index": 3}]}
    objects = [car(y=10.0 * k, kind="cyclist" if k == 3 else "vehicle") for k in range(5)]
    write(tmp_path, gpudrive(scene_of(objects), metadata=meta))
    found = {
        asked: [ego for _, ego in FolderPool(tmp_path, 10, asked).episodes]
        for asked in ("movers", "sdc", "tracks", "all", "4,0")
    }
    assert found == {"movers": [0, 1, 2, 4], "sdc": [2], "tracks": [1, 3], "all": [0, 1, 2, 3, 4], "4,0": [0, 4]}
    with pytest.raises(UserError, match="of --egos 77: give --scenes another folder"):
        FolderPool(tmp_path, 10, "77")
    with pytest.raises(UserError, match='there are no egos "nobody": choose movers, sdc, tracks, all, or ids'):
        FolderPool(tmp_path, 10, "nobody")
    assert driven(tmp_path, egos="sdc").episodes == 1
    with pytest.raises(UserError, match="--egos sdc is for a folder of scenes"):
        envs.make("nocturne", egos="sdc")


def test_files_that_are_no_scenes_are_passed_over_and_named(tmp_path, capsys):
    write(tmp_path, scene_of([car()]), "a.json")
    short = car(size=(-1.3, 2.0))
    write(tmp_path, scene_of([short]), "b.json")
    write(tmp_path, "{", "c.json")
    write(tmp_path, [1, 2], "d.json")
    write(tmp_path, scene_of([car()]), "e.json")
    folder_index._told.clear()
    for _ in range(2):  # the second time from the index
        pool = FolderPool(tmp_path, 10)
        assert [name for name, _ in pool.episodes] == ["a.json", "e.json"]
    said = capsys.readouterr().err
    assert said.count("3 of the 5 files in") == 1 and "b.json: objects[0].length is -1.3" in said and "c.json" in said
    for name in ("a.json", "e.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="has no scene: all of its 3 files are passed over, the first because b.json"):
        FolderPool(tmp_path, 10)


def test_nocturnes_lists_are_no_scenes_and_say_what_is_used_and_who_is_not_driven(tmp_path):
    for name in ("a.json", "b.json", "c.json"):
        write(tmp_path, scene_of([car(), car(y=20)]), name)
    write(tmp_path, [], "invalid_files.json")
    assert len(FolderPool(tmp_path, 10)) == 6
    write(tmp_path, {"a.json": [], "c.json": [1], "gone.json": []}, "valid_files.json")
    assert FolderPool(tmp_path, 10).episodes == [("a.json", 0), ("a.json", 1), ("c.json", 0)]
    write(tmp_path, "{", "valid_files.json")
    with pytest.raises(UserError, match="is no list of scenes"):
        FolderPool(tmp_path, 10)


def test_an_index_that_was_begun_is_gone_on_with(tmp_path, monkeypatch):
    for k in range(6):
        write(tmp_path, scene_of([car()]), f"{k}.json")
    looked = []

    def until_killed(scene, warmup):
        looked.append(scene.name)
        if len(looked) == 4:
            raise KeyboardInterrupt
        return drivable(scene, warmup)

    monkeypatch.setattr(folder_index, "drivable", until_killed)
    with pytest.raises(KeyboardInterrupt):
        FolderPool(tmp_path, 10)
    assert len((tmp_path / INDEX).read_bytes().splitlines()) == 3
    assert len(FolderPool(tmp_path, 10)) == 6 and looked == [f"{k}.json" for k in (0, 1, 2, 3, 3, 4, 5)]
    assert len(FolderPool(tmp_path, 10)) == 6 and len(looked) == 7
    assert len(FolderPool(tmp_path, 10, reading=Reading(late_objects="nocturne"))) == 6 and len(looked) == 13
    assert len(FolderPool(tmp_path, 10, "all")) == 6 and len(looked) == 13  # another choice, the same index


def test_pieces_of_long_logs_are_scenes_of_their_own(tmp_path):
    write(tmp_path, scene_of([car(steps=199), car(y=20, steps=199, valid=[t < 95 for t in range(199)])]))
    assert FolderPool(tmp_path, 10).episodes == [("tiny.json", 0), ("tiny.json", 1)]
    made = driven(tmp_path, long_logs="pieces")
    assert made.pool.episodes == [("tiny.json", 0), ("tiny.json", 1), ("tiny.json#1", 0)]
    made.reset([2])
    assert made.places() == ["tiny.json#1"] and made.sim.state[0, 0, 0] == pytest.approx(0.5 * 101, abs=1e-3)


def test_no_ego_counts_twice(tmp_path):
    for k in range(3):
        write(tmp_path, scene_of([car(), car(y=20)]), f"{k}.json")
    which = Nocturne.prepare(scenes=str(tmp_path), late_objects="nocturne", drive_on=True)
    episodes = [which(seed) for seed in evaluation_seeds(3, 10)]
    assert len(set(episodes[:6])) == 6 == len(set(episodes)) and episodes[6:] == episodes[:4]
    assert [Nocturne.prepare()(seed) for seed in (5, 6)] == [5, 6]


def test_the_worst_episodes_are_collisions_then_goals_missed_then_low_returns():
    rows = [(9, 1, 0), (1, 0, 0), (2, 0, 1), (1, 0, 1), (3, 0, 0)]
    episodes = [Driven(score, {"goal_rate": goal, "collision_rate": hit}, "") for score, goal, hit in rows]
    assert worst(episodes, 4) == [3, 2, 1, 4] and worst([Driven(s, {}, "") for s in (3.0, 1.0)], 9) == [1, 0]


def test_a_film_has_the_gaps_of_its_ego(tmp_path):
    path = write(tmp_path, scene_of([car(steps=14, valid=[t not in (3, 4, 13) for t in range(14)])]))
    args = argparse.Namespace(
        **{name: None for name in ("scene_rate",)},
        scene=path, piece=0, ego=0, video=tmp_path / "a.mp4", style="legible", scene_kind="auto",
        scene_speeds="checked", late_objects="replay", long_logs="cut",
    )  # fmt: skip
    inspection.show(args)
    assert (tmp_path / "a.mp4").stat().st_size > 2_000


def test_check_is_strict_and_tells_what_was_left_out(tmp_path, capsys):
    lane = road("lane", (0, 0), (1, 0), (-10000, -10000), (2, 0))
    write(tmp_path, scene_of([car(steps=120)], [lane]), "a.json")
    write(tmp_path, json.dumps({"a.json": [], "b.json": []}), "valid_files.json")
    args = argparse.Namespace(
        folder=tmp_path, scene_kind="auto", scene_speeds="checked", scene_rate=None, late_objects="replay",
        long_logs="cut",
    )  # fmt: skip
    inspection.check(args)
    said = capsys.readouterr().out
    assert "note: roads[0].geometry[2] is no place but a marker" in said and "2 --long-logs pieces" in said
    write(tmp_path, scene_of([car(size=(40_000.0, 2.0))]), "b.json")
    with pytest.raises(UserError, match="1 of the 2 files in"):
        inspection.check(args)
