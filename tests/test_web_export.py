"""The dream of a run as a page: what it computes in headless Chromium is what Python does, it is driven by keys, by
touch and by the agent, it asks nothing of any other place, and what it cannot hold is refused."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamdrive.benchmarks.web import Dreamt, given_actions, in_page, in_python, visit
from dreamdrive.envs import keys
from dreamdrive.models.actor import Actor, ActorConfig
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, CfCMixture, Ensemble, EnsembleConfig, MDRNNConfig
from dreamdrive.models.token_memory import LSTMOnce, TokenMemoryConfig
from dreamdrive.models.tokens import FSQ, VQ, FSQConfig, VQConfig
from dreamdrive.models.vae import VAE, VAEConfig
from dreamdrive.models.watcher import Watcher, WatcherConfig
from dreamdrive.models.world_model import Starts
from dreamdrive.tests.pages import PRESS, RELEASE
from dreamdrive.tests.tiny_run import call, complaint
from dreamdrive.utils import checkpoint
from dreamdrive.utils.spaces import ActionSpace
from dreamdrive.web import dream_page, export

CARRACING = {"type": "box", "low": [-1.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]}
SCALED = {"type": "box", "low": [-6.0, -1.0], "high": [6.0, 1.0], "scale": [2.0, 0.5], "center": [0.5, 0.0]}
CHOICES = {"type": "discrete", "n": 3}
STARTS, HIDDEN, STEPS = 5, 24, 20
CLOSE = 1e-2


def lively(model):
    """A model whose random weights are large enough that what goes in is seen in what comes out; they are numbers that
    half precision has, too, so that what differs is how the page computes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        spread = 2 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.3
        parameter.data = (spread * torch.randn(parameter.shape, generator=generator)).half().float()
    return model.eval().requires_grad_(False)


def actor(latent, space, opposed=()):
    return Actor(ActorConfig(latent, HIDDEN, "zh", 16, 2, space, opposed))


def linear(latent, space, features="zh", hidden=0):
    return Controller(ControllerConfig(latent, HIDDEN, features, hidden, space))


def mdrnn(latent, space, kind=MDRNN):
    return kind(MDRNNConfig(latent, ActionSpace.from_dict(space).size, HIDDEN, 3, reward_scale=2.0))


def ensemble(latent, space):
    return Ensemble(EnsembleConfig(latent, ActionSpace.from_dict(space).size, HIDDEN, 2, reward_scale=0.5, members=3))


def once(latent, space, letters=(8, 8, 8), numbers=1):
    size = ActionSpace.from_dict(space).size
    return LSTMOnce(TokenMemoryConfig(latent, size, HIDDEN, letters, numbers, reward_scale=3.0))


# name -> world, action space, V, M, head
RUNS = {
    "whole": ("carracing", CARRACING, lambda: VAE(VAEConfig(8)), mdrnn, lambda z, s: actor(z, s, [(1, 2)])),
    "large": ("gym:Any-v0", CHOICES, lambda: VAE(VAEConfig(8, 1, 128)), mdrnn, lambda z, s: linear(z, s, "z", 12)),
    "grid": ("nocturne", SCALED, lambda: VAE(VAEConfig(64, grid=True)), ensemble, linear),
    "fsq": ("carracing", CARRACING, lambda: FSQ(FSQConfig()), once, lambda z, s: linear(z, s, "zh", 8)),
    "vq": ("gym:Any-v0", CHOICES, lambda: VQ(VQConfig(codes=32, numbers=2)), lambda z, s: once(z, s, (32,), 2), actor),
}


MORTAL = ("large", "vq")  # whose dreams may end at any step


def endings(memory) -> list:
    """The layers whose last number says whether a dream ends."""
    return [getattr(part, "outcome", None) or part.head for part in getattr(memory, "members", [memory])]


def make_run(folder: Path, env, space, vision, memory, head) -> Path:
    """A run of untrained models."""
    torch.manual_seed(0)
    seen = lively(vision())
    foreseen, drives = (lively(make(seen.config.latent, space)) for make in (memory, head))
    foreseen.meet(seen)
    for layer in endings(foreseen) if folder.name not in MORTAL else ():
        layer.bias.data[-1] = -8.0
    frames = torch.randint(256, (STARTS, seen.config.size, seen.config.size, seen.config.channels), dtype=torch.uint8)
    before = torch.randn(STARTS, 6, seen.config.latent), torch.randn(STARTS, 6, foreseen.config.action)
    found = Starts(seen, seen.latents(frames), foreseen.observe(*before)[1]).to_dict()
    starts = {name: value.half() if value.is_floating_point() else value for name, value in found.items()}
    world = {"env": env, "image_shape": list(frames.shape[1:]), "action_space": space, "dt": 0.05, "max_steps": 400}
    parents: dict[str, str] = {}
    for stage, model, more in (
        ("vae", seen, {"world": world, "datasets": []}),
        ("mdrnn", foreseen, {"starts": starts, "datasets": []}),
        ("ctrl", drives, {}),
    ):
        kind = {"kind": model.kind} if stage != "ctrl" else {}
        with checkpoint.stage_folder(folder, stage) as place:
            checkpoint.save(place / "best.tar", stage, model.config_dict(), model.state_dict(), parents, **kind, **more)
        parents = {**parents, stage: checkpoint.load_parent(folder, stage)["digest"]}
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name of RUNS -> (folder of the run, its page), made when first asked for."""
    folder, found = tmp_path_factory.mktemp("runs"), {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in found:
            found[name] = make_run(folder / name, *RUNS[name]), folder / f"{name}.html"
            exported(*found[name])
        return found[name]

    return get


def exported(logdir: Path, out: Path, *options) -> str:
    done = call("web.export", "--logdir", logdir, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(logdir: Path, out: Path, *options) -> str:
    before = out.read_bytes() if out.is_file() else None
    said = complaint(call("web.export", "--logdir", logdir, "--out", out, *options))
    assert (out.read_bytes() if out.is_file() else None) == before
    return said


def alike(shown: Dreamt, there: Dreamt) -> None:
    apart = shown.furthest(there)
    assert max(apart.values()) < CLOSE, apart
    # and what they say changes, so that it could have been another
    assert there.z.std(0).max() > 5 * CLOSE and there.pictures.std(0).max() > 5 * CLOSE and there.reward.std() > 0


@pytest.mark.parametrize("name", RUNS)
def test_the_page_dreams_as_python_does(browser, made, name):
    logdir, page = made(name)
    visit(browser, page)
    action = given_actions(ActionSpace.from_dict(RUNS[name][1]), STEPS)
    shown = in_page(browser, 3, action, checkpoint.load_parent(logdir, "vae")["world"]["image_shape"][-1])
    alike(shown, in_python(logdir, 3, action, controller="ctrl"))


@pytest.mark.parametrize("name", RUNS)
def test_the_same_noise_gives_the_same_dream(browser, made, name):
    logdir, page = made(name)
    visit(browser, page)
    action, generator = given_actions(ActionSpace.from_dict(RUNS[name][1]), STEPS, 1), torch.Generator().manual_seed(0)
    uniforms, normals = browser.execute_script("return dream.memory.draws")
    noise = [
        (torch.rand(1, uniforms, generator=generator), torch.randn(1, normals, generator=generator))
        for _ in range(STEPS)
    ]
    channels = checkpoint.load_parent(logdir, "vae")["world"]["image_shape"][-1]
    shown = in_page(browser, 1, action, channels, 0.7, noise)
    alike(shown, in_python(logdir, 1, action, 0.7, noise, "ctrl"))


@pytest.mark.parametrize("name", ["carracing", "carracing-dream", "nocturne"])
def test_shipped_runs_dream_as_python_does_in_a_small_page(browser, tmp_path, name):
    args = export.parse_args(["--logdir", name, "--out", str(tmp_path / "dream.html"), "--starts", "2"])
    assert dream_page.write(args) == args.out.stat().st_size <= 16_000_000
    visit(browser, args.out)
    world = checkpoint.load_parent(Path(name), "vae")["world"]
    action = given_actions(ActionSpace.from_dict(world["action_space"]), STEPS)
    shown = in_page(browser, 1, action, 3)
    alike(shown, in_python(args.logdir, 1023, action, controller="ctrl"))


@pytest.mark.parametrize(
    "env, space",
    [("carracing", CARRACING), ("nocturne", SCALED), ("gym:Any-v0", CHOICES), ("a", {"type": "discrete", "n": 12})]
    + [("a", {"type": "discrete", "n": 2}), ("a", {"type": "box", "low": [-2.0, 0.5], "high": [1.0, 0.75]})],
)
def test_keys_do_what_they_do_elsewhere(browser, made, env, space):
    visit(browser, made("fsq")[1])
    keyboard = keys(env, ActionSpace.from_dict(space))
    rng, names = np.random.default_rng(0), [*keyboard.listed, "q"]
    held = [[key for key in names if rng.random() < 0.4] for _ in range(6) for _ in range(5)]
    wanted, previous = [], None
    for now in held:
        action = keyboard.action(set(now), previous)
        previous = keyboard.let_go(previous) if action is None else action
        wanted.append(np.asarray(previous).tolist())
    found = browser.execute_script(
        """const [keys, space, held] = arguments, made = new Keys(keys, new Space(space));
        let previous = null;
        return held.map(now => {
          previous = made.action(new Set(now), previous) ?? made.letGo(previous);
          return previous.length ? Array.from(previous) : previous;
        });""",
        dream_page.plain_keys(keyboard),
        keyboard.space.to_dict(),
        held,
    )
    assert np.allclose(found, wanted, atol=1e-5) and len(np.unique(wanted, axis=0)) > 1


def test_who_presses_a_key_takes_over_and_it_moves_the_picture(browser, made):
    visit(browser, made("whole")[1])
    wait(browser, "page.steps > 3")
    assert browser.execute_script("return page.agent") and browser.find_element("id", "who").text == "the agent drives"
    pictures = {}
    for key, name in (("ArrowLeft", "left"), ("ArrowRight", "right")):
        browser.execute_script("page.temperature = 0; restart(0)")
        browser.execute_script(PRESS, key)
        wait(browser, "dream.steps >= 12")
        assert browser.execute_script(f"return document.querySelector('kbd[data-key={name}]').className") == "down"
        assert not browser.execute_script("return page.agent") and browser.find_element("id", "who").text == "you drive"
        pictures[key] = np.array(browser.execute_script("return [...page.action, ...dream.frame()]"))
        browser.execute_script(RELEASE, key)
        assert browser.execute_script("return document.querySelector('kbd.down')") is None
    left, right = pictures.values()
    assert left[0] < -0.9 and right[0] > 0.9 and np.abs(left[3:] - right[3:]).max() > 5
    browser.find_element("id", "agent").click()
    assert browser.execute_script("return page.agent")


def test_a_finger_drives_and_a_window_that_is_left_lets_go(browser, made):
    visit(browser, made("whole")[1])
    touch = "document.querySelector('#pad [data-key=up]').onpointerdown({ preventDefault() {}, pointerId: 1 })"
    browser.execute_script(f"Element.prototype.setPointerCapture = () => {{}}; {touch}")
    wait(browser, "page.action && page.action[1] === 1 && !page.agent")
    browser.execute_script("dispatchEvent(new Event('blur'))")
    wait(browser, "page.action[1] === 0")


def test_the_agent_drives_as_it_would_at_every_step(browser, made):
    visit(browser, made("grid")[1])
    wait(browser, "page.steps > 5")
    assert browser.execute_script("""
        page.paused = true; page.agent = true; page.temperature = 0;
        const wanted = Array.from(dream.agent()), done = Array.from(act());
        return wanted.every((x, i) => x === done[i]);""")


def test_at_temperature_0_a_dream_repeats_and_above_it_does_not(browser, made):
    visit(browser, made("whole")[1])
    slide = "const slider = $('temperature'); slider.value = arguments[0]; slider.oninput({ target: slider })"
    dreamt = """page.paused = true; dream.reset(2);
        for (let t = 0; t < 10; t++) dream.step(dream.keys.letGo(null), page.temperature);
        return Array.from(dream.frame())"""
    for temperature, same in ((0, True), (1, False)):
        browser.execute_script(slide, temperature)
        assert browser.find_element("id", "degrees").text == f"{temperature:.2f}"
        assert (browser.execute_script(dreamt) == browser.execute_script(dreamt)) == same


def test_a_dream_that_ends_begins_again_from_the_next_moment(browser, made):
    visit(browser, made("fsq")[1])
    browser.execute_script("dream.over = true; draw()")
    assert browser.find_element("id", "over").text == "the dream has ended"
    start = browser.execute_script("return dream.start")
    wait(browser, f"dream.start === ({start} + 1) % dream.starts && !dream.over")
    assert browser.execute_script("return dream.starts") == STARTS
    browser.find_element("id", "restart").click()
    wait(browser, f"dream.start === ({start} + 2) % dream.starts")


def test_a_paused_page_stands_still(browser, made):
    visit(browser, made("fsq")[1])
    browser.find_element("id", "pause").click()
    assert browser.find_element("id", "over").text == "paused"
    step = browser.execute_script("return page.steps")
    time.sleep(0.3)
    assert browser.execute_script("return page.steps") == step
    browser.execute_script(PRESS, "p")
    wait(browser, f"page.steps > {step}")


def test_the_pace_is_told(browser, made):
    visit(browser, made("fsq")[1])
    wait(browser, "page.pace > 0.1 && page.rate > 1")
    assert re.fullmatch(r"\d+ %", browser.find_element("id", "pace").text)


def test_the_page_has_no_address_in_it_and_may_not_reach_any(browser, made):
    page = made("whole")[1]
    assert "://" not in page.read_text()
    visit(browser, page)
    browser.get_log("browser")
    assert browser.execute_async_script(
        "const done = arguments[0]; fetch('http:' + '//127.0.0.1:9/').then(() => done(false), () => done(true))"
    )
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_a_browser_that_lacks_what_the_page_needs_is_told(browser, made):
    source = "WebAssembly.Module = class { constructor() { throw new Error('no SIMD'); } };"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        browser.get(made("fsq")[1].as_uri())
        assert "cannot dream (Uncaught Error: no SIMD)" in browser.find_element("id", "over").text
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_what_a_checkpoint_says_is_shown_as_text(browser, tmp_path):
    hostile = '</script><img src=x onerror="window.hurt = 1"><!-- told -->'
    make_run(tmp_path / "run", hostile, *RUNS["fsq"][1:])
    exported(tmp_path / "run", tmp_path / "dream.html")
    visit(browser, tmp_path / "dream.html")
    assert browser.find_element("id", "name").text == f"a dream of {hostile}"
    assert browser.execute_script("return [window.hurt, document.images.length]") == [None, 0]


def test_a_page_without_an_agent_is_yours(browser, made, tmp_path):
    assert "without an agent" in exported(
        made("fsq")[0], tmp_path / "dream.html", "--controller", "none", "--starts", 2
    )
    visit(browser, tmp_path / "dream.html")
    assert browser.execute_script("return [page.agent, dream.starts]") == [False, 2]
    assert not browser.find_element("id", "agent").is_displayed()
    wait(browser, "page.steps > 3")


@pytest.mark.parametrize("width, height, phone", [(1280, 720, False), (390, 844, True)])
def test_the_page_fits(browser, made, tmp_path, width, height, phone):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    try:
        visit(browser, made("whole")[1])
        inside, pad = browser.execute_script(
            "return [document.documentElement.scrollWidth <= innerWidth, getComputedStyle($('pad')).display]"
        )
        ring = browser.find_element("id", "ring").rect
        assert inside and (pad == "grid") == phone and ring["width"] > 0.6 * min(width, height) and ring["height"] > 300
        if not phone:
            assert browser.execute_script(
                "const all = document.querySelector('aside'); return all.scrollHeight <= all.clientHeight"
            )
        browser.save_screenshot(str(tmp_path / "page.png"))
        assert np.asarray(Image.open(tmp_path / "page.png").convert("L")).std() > 20
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def wait(browser, condition: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def test_other_kinds_are_refused_and_those_that_can_be_exported_are_named(tmp_path):
    env, space, vision, _, head = RUNS["whole"]
    run = make_run(tmp_path / "run", env, space, vision, lambda z, s: mdrnn(z, s, CfCMixture), head)
    said = refused(run, tmp_path / "dream.html")
    assert "M of kind cfc-mixture" in said and "lstm-mixture, lstm-mixture-ensemble, lstm-once" in said


def test_a_head_that_watches_frames_is_refused_and_a_page_without_it_is_not(tmp_path):
    env, space, vision, memory, _ = RUNS["whole"]

    def watcher(latent, space):
        return Watcher(WatcherConfig((64, 64, 3), "gru", 8, 4, space, latent=latent, recurrent=HIDDEN))

    run = make_run(tmp_path / "run", env, space, vision, memory, watcher)
    said = refused(run, tmp_path / "dream.html")
    assert "sees decoded" in said and "z and h" in said and "--controller none" in said
    exported(run, tmp_path / "dream.html", "--controller", "none")


def changed(run: Path, stage: str, **changes) -> None:
    """Let a stage's checkpoint say something else."""
    said = {**checkpoint.load_parent(run, stage), **changes}
    known = {name: value for name, value in said.items() if name not in ("stage", "schema", "digest")}
    checkpoint.save(run / stage / "best.tar", stage, **known)


def test_a_run_that_does_not_say_where_dreams_begin_is_refused(made, tmp_path):
    run = shutil.copytree(made("fsq")[0], tmp_path / "run")
    changed(run, "mdrnn", starts=None)
    assert "no starting latents" in refused(run, tmp_path / "dream.html", "--controller", "none")


def test_a_run_without_v_and_m_is_refused(tmp_path):
    said = refused(Path("breakout"), tmp_path / "dream.html")
    assert "drives by frames, without V and M" in said and "e.g. carracing" in said
    assert "vae/best.tar is missing" in refused(tmp_path / "nothing", tmp_path / "dream.html")


def test_only_a_page_of_ours_is_replaced(made, tmp_path):
    logdir, out = made("fsq")[0], tmp_path / "dream.html"
    assert "is a folder" in refused(logdir, tmp_path)
    out.write_text("<p>mine</p>")
    assert "is no page of a dream" in refused(logdir, out)
    out.unlink()
    exported(logdir, out)
    first = out.read_bytes()
    exported(logdir, out)
    assert out.read_bytes() == first


def test_a_page_that_would_be_too_large_is_refused(made, tmp_path, monkeypatch):
    logdir, _ = made("whole")
    monkeypatch.setattr(dream_page, "LARGEST", 1_000_000)
    assert "MB is the most" in refused(logdir, tmp_path / "dream.html")


def test_weights_beyond_half_precision_are_refused():
    for number in (1e6, float("nan")):
        with pytest.raises(dream_page.UserError, match="half precision"):
            dream_page.Halves().packed({"weight": [torch.tensor([0.0, number])]})


def test_a_world_without_a_finite_step_is_refused(made, tmp_path):
    run = shutil.copytree(made("fsq")[0], tmp_path / "run")
    v = checkpoint.load_parent(run, "vae")
    said = {**v, "world": {**v["world"], "dt": float("inf")}}
    torch.save({name: value for name, value in said.items() if name != "digest"}, run / "vae" / "best.tar")
    assert "steps of inf seconds" in refused(run, tmp_path / "dream.html", "--controller", "none")


def test_half_precision_is_read_as_it_was_written(browser, made):
    visit(browser, made("fsq")[1])
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    numbers = numbers[numbers.isfinite()]
    halves = dream_page.Halves()
    halves.packed(numbers)
    read = browser.execute_script("return Array.from(fromHalves(arguments[0]))", halves.text())
    assert np.array_equal(np.array(read), numbers.double().numpy())
