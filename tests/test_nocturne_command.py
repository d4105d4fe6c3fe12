"""`python -m envs.nocturne` shows scenes and checks folders of them."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dreamdrive.tests.tiny_run import ROOT
from dreamdrive.tests.tiny_scene import car, road, scene_of, write


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "envs.nocturne", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def scene(tmp_path):
    lanes = [
        road("lane", (-50, 0), (200, 0)),
        road("road_edge", (-50, -4), (200, -4)),
        road("road_edge", (-50, 8), (200, 8)),
    ]
    return write(
        tmp_path, scene_of([car(), car(20, speed=6.0), car(0, 4, speed=3.0, valid=[t < 30 for t in range(91)])], lanes)
    )


def test_show_draws_a_scene_from_above_and_from_the_ego(scene, tmp_path):
    done = command("show", scene, "--t", 20, "--out", tmp_path / "a.png")
    assert done.returncode == 0 and f"{tmp_path}/a.png: step 20 of {scene}, ego 0" in done.stdout, done.stderr
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    blue = (picture[..., 2] > 150) & (picture[..., 0] < 120)  # the cars
    assert blue[:, : picture.shape[1] // 2].any() and blue[:, picture.shape[1] // 2 :].any()


@pytest.mark.slow
def test_show_writes_the_whole_log_as_a_video(scene, tmp_path):
    done = command("show", scene, "--ego", 1, "--video", tmp_path / "a.mp4")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.mp4").stat().st_size > 5_000


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("--t", 91), "--t 91 is not possible: a scene has steps 0 to 90"),
        (("--ego", 9), "tiny.json has no object 9: it has 0, 1, 2"),
        (("--ego", 2, "--t", 40), "object 2 is not in"),
        (("--kind", "gpudrive"), "are they degrees?"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(scene, tmp_path, words, complaint):
    tilted = write(tmp_path, scene_of([car(heading=0.7)]), "tilted.json")
    done = command("show", tilted if "--kind" in words else scene, *words, "--out", tmp_path / "a.png")
    assert done.returncode == 1 and complaint in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_check_lists_a_folder_and_fails_where_a_file_is_broken(scene, tmp_path):
    done = command("check", tmp_path)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert (
        done.returncode == 0
        and rows[1] == ["tiny.json", "3", "0", "0", "3", "3", "6", "0", "0"]
        and rows[2][1:] == rows[1][1:]
    )
    write(tmp_path, "{", "broken.json")
    done = command("check", tmp_path)
    assert done.returncode == 1 and "broken.json" in done.stdout and "is not JSON" in done.stdout
    assert f"1 of the 2 files in {tmp_path} cannot be used" in done.stderr


def test_check_refuses_an_empty_folder(tmp_path):
    done = command("check", tmp_path)
    assert done.returncode == 1 and "has no .json file" in done.stderr
