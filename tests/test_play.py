"""play.py: what is shown, who drives, what is kept; through a screen of the tests' own, and from the command line."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamdrive import play
from dreamdrive.data.manifest import MANIFEST, read_manifest
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.agent import load_agent
from dreamdrive.driving.cast import Cast
from dreamdrive.driving.catalogue import HUMAN
from dreamdrive.envs import make
from dreamdrive.playing import start
from dreamdrive.playing.drive import Drive, make_drive
from dreamdrive.playing.hands import Hands, Human
from dreamdrive.playing.recording import POLICIES, Kept
from dreamdrive.playing.replay import Replay
from dreamdrive.playing.screen import Screen
from dreamdrive.playing.session import Session
from dreamdrive.tests.test_video import decode
from dreamdrive.tests.tiny_run import TinyRun, call, complaint, write_dataset
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.seeds import evaluation_seeds, recording_seed

DREAM = Path("carracing-dream")  # a run that came with dreamdrive


class Eyes(Screen):
    """Somebody who looks at every picture, and answers each with the orders that `wants` has for it."""

    def __init__(self, wants: Callable[["Eyes"], list] = lambda eyes: []) -> None:
        self.orders, self.held, self.present, self.wants = deque(), set(), True, wants
        self.seen: list[tuple] = []  # (driver, step, number of the episode, paused) of each picture
        self.said: list[dict] = []

    def look(self) -> None:
        pass

    def show(self, images, facts, header, status) -> None:
        self.images, self.status, self.said = images, status, [*self.said, {**facts, **header}]
        self.seen.append((status.driver, status.step, status.number, status.paused))
        assert len(self.seen) < 500, "it does not end"
        self.orders.extend(self.wants(self))


def cartpole(driver: str = "random", count: int | None = 2, **more) -> Drive:
    """Short episodes in a world that is quick."""
    world = make("cartpole", restart=False, max_steps=12)
    drive = make_drive(
        world, Cast(driver, "cartpole", {}, None), driver, evaluation_seeds(0, 9).__getitem__, count, **more
    )
    drive.dt = 0.001
    return drive


def looked_at(show, wants=lambda eyes: [], **more) -> tuple[Eyes, list[str]]:
    """A session, and what it said."""
    said: list[str] = []
    eyes = Eyes(wants)
    Session(show, eyes, say=said.append, **more).run()
    return eyes, said


def one_by_one(place: tuple, orders: list) -> Callable[[Eyes], list]:
    """From the first picture of (step, number of the episode) on an order with each; after "step", with that of the
    step."""
    left, since = deque(orders), [-1]

    def wants(eyes: Eyes) -> list:
        step = eyes.seen[-1][1]
        begun = len(left) < len(orders) or eyes.seen[-1][1:3] == place
        if not begun or not left or step == since[0]:
            return []
        since[0] = step if left[0][0] == "step" else -1
        return [left.popleft()]

    return wants


@pytest.fixture
def quick(monkeypatch) -> None:
    """The last picture of an episode does not stay."""
    monkeypatch.setattr("dreamdrive.playing.session.END_PAUSE", 0.0)


def test_every_episode_is_shown_step_by_step_and_told(quick):
    eyes, said = looked_at(cartpole())
    assert [step for _, step, number, _ in eyes.seen if number == 0] == list(range(13))
    assert {number for _, _, number, _ in eyes.seen} == {0, 1}
    assert said == [f"seed {2_000_000 + n}: return 12.0 in 12 steps" for n in (0, 1)]
    assert eyes.images[0].ndim == 3 and eyes.images[0].dtype == np.uint8


def test_orders_pause_step_begin_again_go_on_and_stop(quick):
    orders = [("pause", None), ("step", None), ("step", None), ("stop", None)]
    eyes, _ = looked_at(cartpole(), one_by_one((3, 0), orders))
    assert eyes.seen[-1][1:] == (5, 0, True), "two single steps after the pause at step 3"

    orders = [("pause", None), ("reset", None), ("next", None), ("previous", None), ("stop", None)]
    eyes, _ = looked_at(cartpole(), one_by_one((3, 0), orders))
    places = list(dict.fromkeys(place[1:3] for place in eyes.seen[4:]))
    assert places == [(3, 0), (0, 0), (0, 1)] and eyes.seen[-1][2] == 0


def test_nothing_moves_while_nobody_is_there(quick):
    show = cartpole()
    eyes = Eyes()
    eyes.present = False
    looks = iter(range(10))

    def look() -> None:
        if next(looks, None) is None:
            eyes.orders.append(("stop", None))

    eyes.look = look  # type: ignore[method-assign]
    Session(show, eyes).run()
    assert {step for _, step, _, _ in eyes.seen} == {0}


def test_a_person_takes_over_after_a_count_down_and_drives_by_held_keys(quick):
    counts = []

    def wants(eyes: Eyes) -> list:
        counts.append(eyes.status.count)
        if len(eyes.seen) == 1:
            eyes.held = {"right"}
            return [("driver", HUMAN)]
        return [("stop", None)] if eyes.seen[-1][1] == 4 else []

    eyes, _ = looked_at(cartpole("expert", 1), wants, countdown=0.05)
    assert eyes.seen[-1][0] == HUMAN and 1 in counts and counts[-1] == 0
    actions = [said["action"] for said in eyes.said if said.get("step", 0) > 0]
    assert len(set(actions)) == 1 and "right" in actions[0]


def test_the_count_down_is_for_somebody_who_is_there(quick):
    show, eyes, counts = cartpole(HUMAN, 1), Eyes(), []
    eyes.present = False

    def look() -> None:
        counts.append(eyes.status.count)
        eyes.present = len(counts) > 20
        if eyes.seen[-1][1] == 2:
            eyes.orders.append(("stop", None))

    eyes.look = look  # type: ignore[method-assign]
    Session(show, eyes, countdown=0.1).run()
    assert all(counts[1:20]) and counts[-1] == 0, "it has begun anew until there was somebody"


def test_tab_goes_through_all_who_can_drive_and_a_world_without_expert_has_none(quick):
    show = cartpole("random", 1)
    show.begin(0)
    assert show.drivers == ["random", "expert", HUMAN]
    eyes, _ = looked_at(cartpole("random", 1), one_by_one((1, 0), [("driver", "next")] * 3 + [("stop", None)]))
    assert list(dict.fromkeys(driver for driver, *_ in eyes.seen)) == ["random", "expert", HUMAN]
    acrobot = make("gym:Acrobot-v1", restart=False)
    other = make_drive(acrobot, Cast("random", "gym:Acrobot-v1", {}, None), "random", lambda number: number)
    other.begin(0)
    assert other.drivers == ["random", HUMAN]


def test_a_driver_that_there_is_not_is_no_order(quick):
    eyes, _ = looked_at(cartpole("random", 1), one_by_one((1, 0), [("driver", "nobody"), ("stop", None)]))
    assert {driver for driver, *_ in eyes.seen} == {"random"}


def test_speed_has_its_steps_and_a_machine_that_is_too_slow_is_told(quick, monkeypatch):
    monkeypatch.setattr("dreamdrive.playing.pace.WINDOW", 0.001)
    show = cartpole("random", 1)
    show.dt = 1e-6
    orders = [("speed", "faster"), ("speed", 0.25), ("speed", "slower"), ("speed", 1.0)]
    eyes, _ = looked_at(show, one_by_one((1, 0), orders))
    assert show.over and any(word.endswith("this machine is too slow") for word in eyes.status.words)


def test_who_takes_over_knows_all_that_happened():
    world, agent = make("carracing-fast", restart=False, repeat=4), load_agent(DREAM, "ctrl")
    human, alone = Human(world.keyboard()), load_agent(DREAM, "ctrl")
    hands = Hands({"ctrl": agent, HUMAN: human}, HUMAN)
    obs = world.reset([7])
    hands.reset(1)
    alone.reset(1)
    for t in range(6):
        hands.see(obs)
        alone.see(obs)
        hands.now = HUMAN if t < 4 else "ctrl"
        human.held = {"up"} if t < 4 else set()
        action = hands.choose()
        if t >= 4:
            assert torch.equal(action, alone.choose())
        hands.follow(action)
        alone.follow(action)
        obs = world.step(action).obs


def test_beside_a_dream_the_simulator_starts_where_it_does_and_is_given_the_same():
    args = play.parse_args(["--logdir", str(DREAM), "-a", "--env", "carracing-fast", "--countdown", "0"])
    show = start.drive_of(args)
    show.begin(0)
    assert show.panels == ["the dream", "the simulator, given the same"] and show.beside.apart(show.frame) < 0.1
    there = make("carracing-fast", restart=False, repeat=4)
    obs = there.reset([evaluation_seeds(0, 1)[0]])
    assert (show.images()[1] == there.render()).all()
    for _ in range(5):
        show.step(set())
        obs = there.step(torch.tensor([show.action])).obs
    assert (show.images()[1] == there.render()).all() and show.beside.apart(show.frame) == pytest.approx(
        np.sqrt(((show.frame / 255 - obs[0].numpy() / 255) ** 2).mean()), rel=1e-4
    )
    said = show.header()
    assert {"reward", "end probability", "horizon", "value", "apart"} <= set(said) and said["horizon"] == 1000
    assert show.drivers == ["ctrl", "random", HUMAN], "no expert in a dream"
    show.close()


def parting(apart: Callable[[int], float], ends: int | None = None) -> Drive:
    """In the dream, with the simulator so far apart from it at each of its steps, which ends after some."""
    args = play.parse_args(["--logdir", str(DREAM), "-a", "--env", "carracing-fast", "--countdown", "0"])
    show = start.drive_of(args)
    show.begin(0)
    beside, step = show.beside, show.beside.simulator.step
    beside.apart = lambda frame: apart(beside.steps)

    def last(action: torch.Tensor):
        taken = step(action)
        return replace(taken, terminated=torch.tensor([ends is not None and beside.steps + 1 >= ends]))

    beside.simulator.step = last
    return show


def test_once_the_dream_and_the_simulator_have_parted_it_stands_still_and_says_so():
    show = parting(lambda step: 0.2 if step in (2, 3) or step > 5 else 0.05)
    lasting = round(1 / show.dt)
    for step in range(1, 5 + lasting):
        show.step(set())
        assert show.panels[1] == "the simulator, given the same" and show.header()["apart"][:2] == "0.", step
    bright = show.images()[1].mean()
    show.step(set())
    assert show.panels[1] == "the simulator: parted after 5 steps" and show.header()["apart"] == "-"
    still, dream = show.images()[1], show.images()[0]
    assert 0.2 * bright < still.mean() < 0.6 * bright
    for _ in range(3):
        show.step(set())
    assert (show.images()[1] == still).all() and (show.images()[0] != dream).any(), "the dream goes on"
    assert show.beside.steps == 5 + lasting
    show.begin(0)
    assert show.panels[1] == "the simulator, given the same" and show.images()[1].max() > still.max()
    show.close()


def test_a_simulator_that_ends_before_the_dream_says_so():
    show = parting(lambda step: 0.0, ends=3)
    for _ in range(5):
        show.step(set())
    assert show.panels[1] == "the simulator: over after 3 steps" and not show.over
    show.close()


def test_a_screen_is_told_the_panels_as_they_are(quick):
    show = parting(lambda step: 0.2)
    names: list[list[str]] = []

    def wants(eyes: Eyes) -> list:
        names.append(list(eyes.panels))
        return [("stop", None)] if eyes.seen[-1][1] == 20 else []

    show.dt = 0.001
    looked_at(show, wants)
    assert names[0][1].endswith("given the same") and names[-1][1].endswith("parted after 0 steps")
    show.close()


def test_what_is_kept_is_a_dataset_of_recording_seeds_with_a_persons_actions_as_labels(tmp_path, quick):
    def session(answers: list[bool], first: str = HUMAN) -> list[str]:
        show = cartpole(first, 3, taped=True)
        left = deque(answers)

        def wants(eyes: Eyes) -> list:
            return [("keep", left.popleft())] if eyes.status.asking and left else []

        return looked_at(show, wants, kept=Kept(tmp_path / "train", show, 3))[1]

    said = session([True, False, True])
    assert sum(line.startswith("kept as episode") for line in said) == 2 and said.count("not kept") == 1
    session([True, False, False], "random")
    dataset = Dataset.open(tmp_path / "train")
    assert [entry.seed for entry in dataset.episodes] == [recording_seed(3, i) for i in (0, 2, 1)]
    assert [entry.policy for entry in dataset.episodes] == [HUMAN, HUMAN, "random"]
    assert [dataset.expert_action(i)[1].all() for i in range(3)] == [True, True, False]
    assert dataset.manifest.policies == POLICIES and len(dataset.frames(0)) == dataset.episodes[0].steps + 1


def test_an_episode_that_is_broken_off_may_be_kept_and_counts_as_truncated(tmp_path, quick):
    show = cartpole(HUMAN, None, taped=True)
    wants = one_by_one((4, 0), [("stop", None), ("keep", True)])
    _, said = looked_at(show, wants, kept=Kept(tmp_path / "train", show, 0))
    assert said == [f"kept as episode 0 of {tmp_path / 'train'}"]
    kept = Dataset.open(tmp_path / "train").episode(0)
    assert len(kept.action) == 4 and kept.truncated[-1] and not kept.terminated[-1]


def test_what_is_kept_of_another_world_is_refused_and_nothing_is_lost(tmp_path):
    show = cartpole(HUMAN, taped=True)
    show.begin(0)
    show.step({"left"})
    Kept(tmp_path, show, 0).keep()
    before = (tmp_path / MANIFEST).read_bytes()
    mountain = make("mountaincar", restart=False)
    other = make_drive(mountain, Cast(HUMAN, "mountaincar", {}, None), HUMAN, lambda number: number)
    with pytest.raises(UserError, match="was recorded with env cartpole, and now it is mountaincar"):
        Kept(tmp_path, other, 0)
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_a_recording_is_a_film_and_the_arrays_of_what_was_seen(tmp_path, quick):
    eyes, said = looked_at(
        cartpole("random", 1), one_by_one((2, 0), [("record", None)] + [("header", None)] * 3), recordings=tmp_path
    )
    (film,) = tmp_path.glob("*.mp4")
    assert said[0] == f"recorded {film}", "at the end of the episode at the latest"
    frames, actions, rewards = (
        np.load(tmp_path / f"{film.stem}-{name}.npy") for name in ("frames", "actions", "rewards")
    )
    assert len(frames) == len(actions) == len(rewards) == len(decode(film)[1]) == 11
    assert frames.dtype == np.uint8 and actions.dtype == np.int64 and (rewards == 1).all()
    assert not any(path.name.endswith(".tmp") for path in tmp_path.iterdir())


def test_a_recording_from_the_start_says_that_no_action_led_there(tmp_path, quick):
    looked_at(cartpole("random", 1), one_by_one((0, 0), [("record", None)]), recordings=tmp_path)
    (actions,) = tmp_path.glob("*-actions.npy")
    assert np.load(actions)[0] == -1 and np.load(tmp_path / actions.name.replace("actions", "rewards"))[0] == 0


def test_recorded_episodes_can_be_sought_in(tmp_path, quick):
    dataset = write_dataset(tmp_path / "data", [10, 12, 8])
    show = Replay([dataset])
    whole = dataset.episode(1)
    places = []

    def wants(eyes: Eyes) -> list:
        places.append((eyes.seen[-1][2], eyes.seen[-1][1]))
        orders = {1: ("pause", None), 2: ("next", None), 3: ("seek", 0.5), 4: ("seek", "last"), 5: ("seek", "first")}
        return [orders.get(len(places), ("stop", None))]

    eyes, _ = looked_at(show, wants)
    steps = len(whole.action)
    assert places[2:6] == [(1, 0), (1, round(steps / 2)), (1, steps), (1, 0)]
    show.begin(1)
    show.seek(steps // 2)
    assert (show.images()[0] == whole.obs[steps // 2][..., -3:]).all()
    assert show.facts()["return"] == pytest.approx(whole.reward[: steps // 2].sum(), rel=1e-5)
    assert show.header()["split"] == dataset.episodes[1].split and show.moment[1] is not None


def test_without_names_the_runs_own_episodes_are_shown_with_what_v_makes_of_them(trained: TinyRun):
    show = start.replay_of(play.parse_args(["--logdir", str(trained.logdir), "-e", "-r"]))
    show.begin(0)
    assert show.count == len(read_manifest(trained.data).episodes) and len(show.images()) == 2
    assert show.panels[1] == "what V makes of it" and show.images()[1].shape == show.images()[0].shape


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-w", "-a"), "-w, -a and -e exclude each other: choose one"),
        (("-w", "--controller", "random"), "with -w you drive"),
        (("-a", "--controller", "expert"), "a dream does not have"),
        (("--temperature", 0), "--temperature is for -w or -a"),
        (("--port", 9000), "--port is for --browser"),
        (("-e", "nowhere"), "nowhere"),
        (("-e",), "has no episodes to show"),
        (("-e", "-s"), "-s is for drives, not for -e"),
        (("-w",), "trainvae.py"),
        (("--env", "carracin"), "carracin"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value)),
)
def test_what_makes_no_sense_is_refused_in_a_sentence(flags, said, tmp_path):
    done = call("play", "--logdir", tmp_path, *flags)
    assert done.returncode in (1, 2) and said in complaint(done), done.stderr


def test_a_dataset_of_other_frames_has_no_panel_of_v(trained: TinyRun, tmp_path):
    dataset = write_dataset(tmp_path / "data", [4, 4], image=(32, 32, 3))
    done = call("play", "--logdir", trained.logdir, "-r", "-e", dataset.root)
    assert done.returncode == 1 and "leave -r away" in complaint(done)
