"""Learning curves of evolution, what is read from a run and what is drawn, and the number of episodes that follows from
one."""

import pytest
from PIL import Image

from dreamdrive.benchmarks.curves import curve, draw, main
from dreamdrive.learning.evolution import samples_now
from dreamdrive.learning.evolution_settings import EvolutionSettings
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
    def samples(*scores, **changes):
        args = {"world": "simulator", "n_samples": 2, "most_samples": 5, "evaluate_every": 1, **changes}
        history = [{"generation": g, "simulator": score} for g, score in enumerate(scores, 1)]
        return samples_now(EvolutionSettings(**args), history)

    better, worse = (1.0, 2.0), (1.5,)
    assert samples() == samples(*better) == samples(*better, *2 * worse) == 2
    assert samples(*better, *3 * worse) == samples(*better, *3 * worse, 3.0, *2 * worse) == 4
    assert samples(*better, *6 * worse) == samples(*better, *20 * worse) == 5
    assert samples(*better, *6 * worse, world="dream") == 2
    stops = [score for _ in range(8) for score in (1.0, None)]  # after odd generations, by commands that ended there
    assert samples(*stops, evaluate_every=1000) == 2
