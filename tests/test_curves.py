"""Learning curves of evolution, what is read from a run and what is drawn, and the number of episodes that follows from
one."""

from argparse import Namespace

import pytest
from PIL import Image

from dreamdrive.benchmarks.curves import curve, draw, main
from dreamdrive.traincontroller import samples_now
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.metrics import write_csv


def write_run(folder, clock=4):
    rows = [{"generation": g, "simulator": 100.0 * g if g % 2 == 0 else None, "frames": 1000 * g} for g in range(1, 5)]
    folder.mkdir(parents=True)
    write_csv(folder / "metrics.csv", rows)
    write_csv(folder / "clock.csv", [{"generation": g, "seconds": 1800.0} for g in range(1, clock + 1)])


def test_a_curve_has_a_point_for_every_score_at_its_frames_and_hours(tmp_path):
    write_run(tmp_path / "ctrl")
    assert curve(tmp_path / "ctrl") == {"frames": [2000.0, 4000.0], "hours": [1.0, 2.0], "score": [200.0, 400.0]}


def test_a_generation_whose_time_is_lost_is_left_out(tmp_path):
    write_run(tmp_path / "ctrl", clock=3)
    assert curve(tmp_path / "ctrl")["frames"] == [2000.0]
    assert curve(tmp_path / "nowhere") == {}


def test_the_picture_shows_the_curves(tmp_path):
    write_run(tmp_path / "ctrl")
    draw({"z and h": curve(tmp_path / "ctrl")}, tmp_path / "with.png")
    draw({}, tmp_path / "without.png")
    with_curve, without = (Image.open(tmp_path / name).convert("RGB") for name in ("with.png", "without.png"))
    blue = (31, 119, 180)  # matplotlib's first colour
    count = [sum(n for n, colour in image.getcolors(2**20) if colour == blue) for image in (with_curve, without)]
    assert count[0] > 100 and count[1] == 0


def test_a_run_without_evolution_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["curves", "--logdir", str(tmp_path), "--out", str(tmp_path / "curves.png")])
    with pytest.raises(UserError, match="holds no evolution in the simulator"):
        main()


def test_candidates_drive_more_episodes_when_the_mean_no_longer_gets_better():
    def row(simulator):
        return {"simulator": simulator}

    args = Namespace(world="simulator", n_samples=2, most_samples=5)
    better, worse = [row(None), row(1.0), row(None), row(2.0)], [row(None), row(1.5)]
    assert samples_now(args, []) == samples_now(args, better) == samples_now(args, better + 2 * worse) == 2
    assert samples_now(args, better + 3 * worse) == samples_now(args, better + 3 * worse + [row(3.0)] + 2 * worse) == 4
    assert samples_now(args, better + 6 * worse) == samples_now(args, better + 20 * worse) == 5
    assert samples_now(Namespace(world="dream", n_samples=2, most_samples=5), better + 6 * worse) == 2
