"""Stage 5's window and videos, as a user meets them: on a VNC screen, with keys from a keyboard, and without any
display."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.policies import make_policy
from dreamdrive.driving.scoring import cast_of
from dreamdrive.envs import make
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.vae import VAE, VAEConfig, to_float
from dreamdrive.models.world_model import Starts
from dreamdrive.playing.drive import Drive
from dreamdrive.playing.screen import HELP
from dreamdrive.playing.shown import record, show_of
from dreamdrive.test_controller import parse_args
from dreamdrive.tests.test_video import decode
from dreamdrive.tests.vnc import Desktop, vnc_desktop, wait_for
from dreamdrive.utils import checkpoint
from dreamdrive.utils.keys import usual_keys
from dreamdrive.utils.seeds import evaluation_seeds
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.utils.video import BACKGROUND, GAP, fit, line_height, with_lines
from dreamdrive.utils.viewer import values_line

ROOT = Path(__file__).parent.parent
SEED = evaluation_seeds(0, 1)[0]
WIDTH, HEIGHT = 1280, 560  # of the window, in the screen's corner as there is no window manager
needs_vnc = pytest.mark.skipif(
    shutil.which("Xtigervnc") is None, reason="Xtigervnc is missing: apt-get install tigervnc-standalone-server"
)
needs_xvfb = pytest.mark.skipif(
    shutil.which("xvfb-run") is None, reason="xvfb-run is missing: apt-get install xvfb xauth"
)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory) -> Path:
    """A run on CarRacing whose V was fitted for seconds, and whose M and linear head are as they were initialised."""
    folder = tmp_path_factory.mktemp("render")
    torch.manual_seed(0)
    frames, world = drive_expert(steps=100)
    vae = fitted_vae(frames, batches=60)
    mdrnn = MDRNN(MDRNNConfig(vae.config.latent, 3, hidden=16))
    with torch.no_grad():
        mdrnn.head.bias[-1] = -12.0  # its dreams do not end of themselves
        starts = Starts(vae, vae.latents(frames), mdrnn.initial(len(frames)))
    head = Controller(ControllerConfig(vae.config.latent, 16, "zh", 0, world["action_space"]))
    digests: dict[str, str] = {}
    for stage, model, more in (
        ("vae", vae, {"world": world}),
        ("mdrnn", mdrnn, {"starts": starts.to_dict()}),
        ("bc", head, {}),
    ):
        target = checkpoint.path(folder, stage)
        target.parent.mkdir()
        checkpoint.save(
            target,
            stage,
            model.config_dict(),
            model.state_dict(),
            dict(digests),
            epoch=1,
            best=0.0,
            datasets=[],
            **more,
        )
        digests[stage] = checkpoint.load(target, stage)["digest"]
    return folder


def drive_expert(steps: int) -> tuple[torch.Tensor, dict]:
    """(frames uint8 (N, 64, 64, C), the world as a checkpoint records it)."""
    world = make("carracing")
    expert = make_policy("expert", world)
    obs = [world.reset([1])]
    expert.reset(1)
    for _ in range(steps):
        obs.append(world.step(expert.act(obs[-1])).obs)
    spec = world.spec
    plain = {
        "env": spec.name,
        "image_shape": list(spec.image_shape),
        "action_space": spec.plain_action_space,
        "dt": spec.dt,
        "max_steps": spec.max_steps,
    }
    return torch.cat(obs), plain


def fitted_vae(frames: torch.Tensor, batches: int) -> VAE:
    """A V that knows green from grey, and the view from far above at an episode's start from the rest."""
    vae = VAE(VAEConfig()).to(memory_format=torch.channels_last)
    with torch.no_grad():
        # begin with the frames' mean colour, which saves half the batches
        vae.decoder[-2].bias.copy_(to_float(frames).mean((0, 2, 3)).logit())
    optimizer = torch.optim.Adam(vae.parameters(), 2e-3, fused=True)
    for _ in range(batches):
        batch = frames[torch.randint(len(frames), (16,))]
        optimizer.zero_grad()
        vae.loss(batch, vae(batch))["loss"].backward()
        optimizer.step()
    return vae.eval()


def command(logdir: Path, *flags) -> list[str]:
    return [sys.executable, "test_controller.py", "--logdir", str(logdir), *map(str, flags)]


def without_display() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "DISPLAY"}, "OMP_NUM_THREADS": "1"}


def episode(monkeypatch, logdir: Path, *flags) -> Drive:
    """What the command drives, within this process."""
    monkeypatch.setattr(sys, "argv", command(logdir, *flags)[1:])
    args = parse_args()
    return show_of(args, cast_of(args))


@contextmanager
def rendering(logdir: Path, folder: Path, panels: int, *flags) -> Iterator[tuple[Desktop, subprocess.Popen]]:
    """Stage 5 with --render on a VNC desktop, from when its panels are seen."""
    log = folder / "log"
    with vnc_desktop() as desktop, open(log, "w") as out:
        environment = {**desktop.environment(), "OMP_NUM_THREADS": "1"}
        script = subprocess.Popen(
            command(logdir, "--render", *flags), cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            wait_for(
                lambda: script.poll() is not None or len(find_panels(desktop.capture(folder / "first.png"))) == panels,
                120,
                "the panels are there",
            )
            assert script.poll() is None, log.read_text()
            yield desktop, script
            assert script.wait(20) == 0, log.read_text()
        finally:
            script.kill()
            script.wait()


def find_panels(screen: np.ndarray) -> list[tuple[slice, slice]]:
    """(rows, columns) of each picture in the window, from left to right."""
    covered = (screen[:HEIGHT, :WIDTH] != BACKGROUND).any(2)
    if covered[0].all():
        return []  # there is no window yet, only the black screen
    return [
        (runs(covered[:, columns].mean(1) > 0.5)[0], columns)
        for columns in runs(covered[HEIGHT // 3 : HEIGHT // 2].mean(0) > 0.5)
    ]


def runs(mask: np.ndarray) -> list[slice]:
    """The stretches of a mask (N,) that are True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).tolist()
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def shows(panel: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a panel of the screen is that picture enlarged; the last bit of a decoded pixel may differ between
    processes."""
    wanted = np.asarray(fit(picture, len(panel)))
    return panel.shape == wanted.shape and np.abs(panel.astype(int) - wanted).mean() < 0.5


def says(screen: np.ndarray, bottom: int, number: int, line: str) -> bool:
    """Whether line `number` of the text below pictures that end at row `bottom` is that one."""
    top, height = bottom + GAP + number * line_height(16), line_height(16)
    wanted = with_lines(np.full((1, WIDTH, 3), BACKGROUND, np.uint8), [line])[1 : 1 + height]
    return bool((screen[top : top + height, :WIDTH] == wanted).all())


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def share_of_grass(panel: np.ndarray) -> float:
    red, green, blue = panel.astype(int).transpose(2, 0, 1)
    return float(((green > red + 40) & (green > blue + 40)).mean())


@needs_vnc
@pytest.mark.slow
def test_a_vnc_screen_shows_the_simulator_what_v_makes_of_it_and_what_m_expected(logdir, tmp_path):
    def green():
        screen = desktop.capture(tmp_path / "driving.png")
        return all(share_of_grass(screen[place]) > 0.5 for place in find_panels(screen))

    with rendering(logdir, tmp_path, 3, "--controller", "bc") as (desktop, _):
        wait_for(green, 60, "the camera is close above the grass")
        desktop.do(
            "key", "space", "pause", "1", "key", "r", "pause", "1", "capture", str(tmp_path / "reset.png"), "key", "q"
        )

    screen = read(tmp_path / "reset.png")
    places = find_panels(screen)
    panels = [screen[place] for place in places]
    (rows, first), (_, second), (_, third) = places
    assert len({p.shape[0] for p in panels}) == 1 and panels[0].shape[0] > 300 and panels[1].shape == panels[2].shape
    assert second.start - first.stop == third.start - second.stop == GAP
    for _, columns in places:
        above = screen[rows.start - 28 : rows.start - 2, columns]
        assert (above > 150).any() and (above == BACKGROUND).all(2).mean() > 0.7, (
            "a caption on dark ground stands above each panel"
        )

    # what the panels are to show at the first step
    world, agent = make("carracing", restart=False), load_agent(logdir, "bc")
    agent.reset(1)
    agent.see(world.reset([SEED]))
    pictures = [world.render(), agent.reconstruction()[0].numpy(), agent.expectation()[0].numpy()]
    assert all(shows(panel, picture) for panel, picture in zip(panels, pictures, strict=True))
    assert not shows(panels[1], pictures[2]) and not shows(panels[2], pictures[1])
    assert says(screen, rows.stop, 0, f"driver bc    seed {SEED}    step 0    return 0.0")
    assert says(screen, rows.stop, 1, "[paused]") and says(screen, rows.stop, 2, f"{HELP}    Tab: driver")


@needs_vnc
@pytest.mark.slow
@pytest.mark.parametrize("world", ["simulator", "dream"])
def test_a_human_pauses_resets_single_steps_and_drives_by_keys_from_vnc(world, logdir, tmp_path, monkeypatch):
    flags = ("--controller", "human", "--world", world, *(("--horizon", 100_000) if world == "dream" else ()))
    driven = episode(monkeypatch, logdir, *flags, "--render")
    with rendering(logdir, tmp_path, len(driven.panels), *flags) as (desktop, _):
        desktop.do(
            "key",
            "space",
            "pause",
            "1",
            "key",
            "r",
            "pause",
            "1",
            "capture",
            str(tmp_path / "reset.png"),
            "keydown",
            "right",
            "keydown",
            "up",
            *("key", "s", "pause", "1") * 3,
            "capture",
            str(tmp_path / "driven.png"),
            "key",
            "q",
        )

    def seen(screen: np.ndarray) -> bool:
        place = find_panels(screen)[0]
        return (
            says(screen, place[0].stop, 0, values_line(driven.facts()))
            and shows(screen[place], driven.images()[0])
            and says(screen, place[0].stop, 1, f"{driven.human.keys.help}    [paused]")
        )

    driven.begin(0)
    assert seen(read(tmp_path / "reset.png")), "R begins the episode again, and it stays paused"
    screen, steps = read(tmp_path / "driven.png"), 0
    while not seen(screen):
        assert steps < 3, "each S takes a step with the held keys' action"
        driven.step({"right", "up"})
        steps += 1
    assert steps > 1 and driven.action[0] > 0.1 and driven.action[1] == 1


def test_what_is_watched_is_what_is_scored(logdir, monkeypatch):
    watched = episode(monkeypatch, logdir, "--controller", "bc")
    watched.begin(0)
    world, agent = make("carracing", restart=False), load_agent(logdir, "bc")
    agent.reset(1)
    obs, total = world.reset([SEED]), 0.0
    for _ in range(5):
        step = world.step(agent.act(obs))  # as driving/evaluation.py drives
        obs, total = step.obs, total + float(step.reward)
        watched.step(set())
    agent.see(obs)
    pictures = [world.render(), agent.reconstruction()[0].numpy(), agent.expectation()[0].numpy()]
    assert watched.total == total and all((a == b).all() for a, b in zip(watched.images(), pictures, strict=True))


def test_what_an_agent_does_depends_on_nobody_beside_it(logdir):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 37, 64, 64, 3), np.uint8))

    def drive(which):
        agent = load_agent(logdir, "bc")
        agent.reset(len(which))
        return torch.stack([agent.act(obs[which]) for obs in frames], 1)

    together = drive(range(37))
    for size in (1, 2, 3, 4, 7, 16, 33):
        assert torch.equal(torch.cat([drive(range(i, min(i + size, 37))) for i in range(0, 37, size)]), together), size
    agent = load_agent(logdir, "bc")
    agent.reset(37)
    agent.act(frames[0])
    agent.keep(torch.arange(37) % 3 == 1)
    assert torch.equal(agent.act(frames[1][1::3]), together[1::3, 1])


@needs_xvfb
def test_under_xvfb_run_the_last_episode_closes_the_window(logdir):
    flags = ("--controller", "bc", "--world", "dream", "--horizon", 5, "--episodes", 2, "--render")
    done = subprocess.run(
        ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24", *command(logdir, *flags)],
        cwd=ROOT,
        env=without_display(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and re.findall(r"seed (\d+): return \S+ in 5 steps", done.stdout) == [
        str(SEED),
        str(SEED + 1),
    ], done.stderr


@needs_xvfb
def test_without_display_a_virtual_screen_is_used_and_ctrl_c_leaves_nothing_behind(logdir, tmp_path):
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "Xvfb").symlink_to(str(shutil.which("Xvfb")))  # and no VNC server (tests/test_play_vnc.py)
    with open(log, "w") as out:
        script = subprocess.Popen(
            command(logdir, "--controller", "bc", "--world", "dream", "--horizon", 5, "--render"),
            cwd=ROOT,
            env={**without_display(), "PATH": str(tmp_path / "bin")},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "in 5 steps" in log.read_text() or script.poll() is not None, 120, "an episode was shown")
        number = re.search(r"virtual screen :(\d+) \(no VNC desktop: .*\)\. To see it", log.read_text())
        assert number, log.read_text()
        socket = Path(f"/tmp/.X11-unix/X{number[1]}")
        assert socket.exists()
        before = time.monotonic()
        os.killpg(script.pid, signal.SIGINT)
        assert script.wait(20) == 130 and time.monotonic() - before < 5
        wait_for(lambda: not socket.exists(), 10, "the virtual screen is gone")
        assert "Traceback" not in log.read_text()
    finally:
        script.kill()
        script.wait()


def test_a_dream_is_recorded_and_scored_with_nothing_but_a_path(logdir, tmp_path):
    flags = (
        "--controller",
        "bc",
        "--world",
        "dream",
        "--horizon",
        15,
        "--episodes",
        2,
        "--record",
        tmp_path / "dream.mp4",
    )
    done = subprocess.run(
        command(logdir, *flags), cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (logdir / "scores" / "bc-carracing-dream.json").exists()
    text, frames = decode(tmp_path / "dream.mp4")
    assert "h264" in text and "50 fps" in text and len(frames) == 16, "a frame for every observation, the last included"
    assert all(share_of_grass(frame) > 0.3 for frame in frames)


def test_the_simulator_is_recorded_with_its_three_panels(logdir, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    driven = episode(monkeypatch, logdir, "--controller", "bc")
    driven.world.spec = replace(driven.world.spec, max_steps=60)
    record(tmp_path / "drive.mp4", driven)
    _, frames = decode(tmp_path / "drive.mp4")
    assert len(frames) == 61
    thirds = np.array_split(frames[-1], 3, axis=1)
    assert all(share_of_grass(third) > 0.3 for third in thirds)


def test_a_video_that_cannot_be_written_is_refused_before_anything_is_scored(logdir, tmp_path):
    done = subprocess.run(
        command(logdir, "--controller", "bc", "--record", tmp_path / "drive.avi"),
        cwd=ROOT,
        env=without_display(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and ".mp4" in done.stderr and "Traceback" not in done.stderr
    assert not (logdir / "scores" / "bc-carracing-simulator.json").exists()


def test_without_a_trained_run_only_the_simulator_is_shown(tmp_path, monkeypatch):
    driven = episode(monkeypatch, tmp_path, "--controller", "random")
    driven.begin(0)
    assert driven.panels == ["the simulator"] and [i.shape for i in driven.images()] == [(400, 600, 3)]


def test_the_keys_that_act_are_named_for_every_space():
    def said(**space):
        return usual_keys(ActionSpace(**space)).help

    assert said(n=2) == "arrows, 0-1: act" and said(n=18) == "0-9: act"
    assert said(low=(-1, 0, 0), high=(1, 1, 1)) == "left, right: steer    up: gas    down: brake"
    assert said(low=(-2, -2), high=(2, 2)) == "left, right: number 1    down, up: number 2"
