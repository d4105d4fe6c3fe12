"""Policies on frames: what they learn from, what they remember, and how they drive."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamdrive.data.loaders import open_datasets
from dreamdrive.data.sequences import STRETCH, FrameSequences, shifted
from dreamdrive.data.shards import Dataset
from dreamdrive.driving.agent import PolicyHead, load_agent
from dreamdrive.driving.evaluation import DriverSpec, Evaluator
from dreamdrive.models.catalogue import MEMORIES
from dreamdrive.models.cloning import CloneLoss, averaged, run_sequences
from dreamdrive.models.lanes import LANES
from dreamdrive.models.policy import Policy, PolicyConfig
from dreamdrive.tests.tiny_run import BOX, DISCRETE, call, complaint, contents, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.metrics import read_csv
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

LENGTHS = [200, 5, 90, 40]  # episode 3 is for validation
CHOICES = ActionSpace.from_dict(DISCRETE)
CLONE = (
    "--model",
    "gru",
    "--units",
    8,
    "--width",
    4,
    "--sequence",
    8,
    "--batch-size",
    32,
    "--evaluate-every",
    1,
    "--n-samples",
    1,
    "--max-workers",
    1,
    "--device",
    "cpu",
)


def policy(memory: str = "cfc", space: dict = DISCRETE) -> Policy:
    torch.manual_seed(0)
    return Policy(PolicyConfig((64, 64, 3), memory, 8, 4, space)).eval()


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# What they learn from


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("rng", [None, 0])
def test_every_step_is_met_once_with_its_frame_and_the_experts_action(tmp_path, space, rng):
    write_dataset(tmp_path / "data", LENGTHS, space=space)
    steps = FrameSequences(open_datasets([tmp_path / "data"]), "train", 8, 3)
    assert len(steps) == sum(LENGTHS[:3])
    met = []
    for glimpse in steps.batches(1, None if rng is None else np.random.default_rng(rng)):
        assert glimpse.frames.shape[1] == 8 and len(glimpse.frames) <= 3
        for frame, action in zip(glimpse.frames[glimpse.known], glimpse.action[glimpse.known], strict=True):
            e, t = int(frame[0, 0, 0]), int(frame[0, 0, 2]) + 256 * int(frame[0, 0, 1])
            met.append((e, t))
            wanted = (
                [-e / 100, -t / 1000] if space is BOX else np.eye(space["n"])[space["n"] - 1 - (e + t) % space["n"]]
            )
            np.testing.assert_allclose(action, wanted, atol=1e-6)
    assert sorted(met) == [(e, t) for e in range(3) for t in range(LENGTHS[e])]


def test_a_batch_goes_on_where_the_one_before_it_ended(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS)
    steps, before, begun = FrameSequences(open_datasets([tmp_path / "data"]), "train", 8, 2), None, []
    for glimpse in steps.batches(1, np.random.default_rng(0)):
        now = [
            [(int(f[0, 0, 0]), int(f[0, 0, 2]) + 256 * int(f[0, 0, 1])) for f in lane[known]]
            for lane, known in zip(glimpse.frames, glimpse.known, strict=True)
        ]
        begun += [lane[0] for lane in now] if glimpse.begins else []
        for lane, last in zip(now, before or [], strict=False):
            if not glimpse.begins and lane:
                assert lane[0] == (last[-1][0], last[-1][1] + 1)
        before = now
    assert len(begun) > len(set(begun)) - 1 and len(begun) >= 200 // (8 * STRETCH)


def test_the_cuts_move_from_epoch_to_epoch(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS)
    steps = FrameSequences(open_datasets([tmp_path / "data"]), "train", 8, 2)
    one, two = (next(steps.batches(k, np.random.default_rng(k))).frames[:, 0, 0, 0] for k in range(2))
    assert not torch.equal(one, two)


def test_frames_are_shifted_together_and_edges_repeated():
    seen = frames(2, 3)
    moved = shifted(seen, np.array([[2, -1], [0, 0]]))
    assert torch.equal(moved[1], seen[1])
    assert torch.equal(moved[0, :, 2:, :-1], seen[0, :, :-2, 1:])
    assert torch.equal(moved[0, :, 0, :-1], seen[0, :, 0, 1:]) and torch.equal(moved[0, :, 2:, -1], seen[0, :, :-2, -1])


def test_a_stretch_is_shifted_as_a_whole_and_validation_is_not(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS)
    plain, moved = (
        list(
            FrameSequences(open_datasets([tmp_path / "data"]), "train", 8, 2, shift).batches(
                1, np.random.default_rng(0)
            )
        )
        for shift in (0, 3)
    )
    assert [len(glimpse.frames) for glimpse in plain] == [len(glimpse.frames) for glimpse in moved]
    by, found = None, []
    for one, two in zip(plain, moved, strict=True):
        if one.begins:
            by = [
                next(
                    (y, x)
                    for y in range(-3, 4)
                    for x in range(-3, 4)
                    if torch.equal(shifted(one.frames[b : b + 1], np.array([[y, x]]))[0], two.frames[b])
                )
                for b in range(len(one.frames))
            ]
            found += by
        assert torch.equal(shifted(one.frames, np.array(by)), two.frames)
    assert len(set(found)) > 2
    still = [
        list(FrameSequences(open_datasets([tmp_path / "data"]), "val", 8, 2, shift).batches(1, None))
        for shift in (0, 3)
    ]
    assert all(torch.equal(one.frames, two.frames) for one, two in zip(*still, strict=True))


# What they remember


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
def test_frame_by_frame_is_the_same_as_all_at_once(memory, space):
    model, seen = policy(memory, space), frames(2, 5)
    whole, last = model(seen, model.initial_state(2))
    state, single = model.initial_state(2), []
    for t in range(5):
        outputs, state = model(seen[:, t : t + 1], state)
        single.append(outputs[:, 0])
    torch.testing.assert_close(whole, torch.stack(single, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last, state, atol=1e-5, rtol=1e-4)
    again, _ = model(seen, torch.ones_like(model.initial_state(2)))
    assert torch.allclose(whole, again) == (memory == "mlp")  # all others remember


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_policy_learns_what_only_memory_tells(memory):
    """The expert does now what the frame before told; the loss falls below chance for those who remember."""
    torch.manual_seed(0)
    model = policy(memory)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rng = np.random.default_rng(0)

    class Batch:
        def __init__(self) -> None:
            told = rng.integers(3, size=(16, 12))
            self.frames = torch.from_numpy((told * 100).astype(np.uint8))[..., None, None, None].expand(
                16, 12, 64, 64, 3
            )
            before = np.concatenate([np.zeros((16, 1), np.int64), told[:, :-1]], 1)
            self.action, self.known, self.begins = torch.eye(3)[before], torch.ones(16, 12, dtype=torch.bool), True

    with Bar(disable=True) as bar:
        learnt = [run_sequences(model, [Batch()], CloneLoss(CHOICES), optimizer, bar) for _ in range(120)][-1]
    assert (learnt["accuracy"] > 0.6) == (memory != "mlp"), learnt


def test_what_is_remembered_goes_on_over_batches_and_begins_anew(tmp_path):
    model, states = policy("gru"), []
    forward = model.forward
    model.forward = lambda seen, state: (states.append(state.clone()), forward(seen, state))[1]
    write_dataset(tmp_path / "data", LENGTHS, space=DISCRETE)
    with Bar(disable=True) as bar:
        begins = []
        steps = FrameSequences(open_datasets([tmp_path / "data"]), "train", 8, 2)

        def watched():
            for glimpse in steps.batches(1, None):
                begins.append(glimpse.begins)
                yield glimpse

        run_sequences(model, watched(), CloneLoss(CHOICES), None, bar)
    assert (
        len(begins) == len(states)
        and all((state == 0).all() == begin for state, begin in zip(states, begins, strict=True))
        and 1 < sum(begins) < len(begins)
    )


# How they drive


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_one_copy_does_depends_on_nobody_beside_it(memory):
    seen = frames(6, 4)
    together = PolicyHead(policy(memory, BOX), {}, {})
    together.reset(6)
    actions = torch.stack([together.act(seen[:, t]) for t in range(4)], 1)
    for few in ([2], [1, 2, 5]):
        alone = PolicyHead(policy(memory, BOX), {}, {})
        alone.reset(len(few))
        assert torch.equal(torch.stack([alone.act(seen[few, t]) for t in range(4)], 1), actions[few]), LANES
    leaving = PolicyHead(policy(memory, BOX), {}, {})
    leaving.reset(6)
    leaving.act(seen[:, 0])
    keep = torch.tensor([True, False, True, True, False, False])
    leaving.keep(keep)
    assert torch.equal(leaving.act(seen[keep, 1]), actions[keep, 1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A clone of cartpole's pictures."""
    folder = tmp_path_factory.mktemp("policy")
    record = (
        "--env",
        "cartpole",
        "--policy",
        "expert",
        "--action-noise",
        0.3,
        "--rollouts",
        4,
        "--max-steps",
        60,
        "--val-fraction",
        0.3,
        "--threads",
        1,
    )
    assert call("data.generation_script", *record, "--rootdir", folder / "data").returncode == 0
    done = call("trainbc", "--dataset", folder / "data", "--logdir", folder / "run", "--epochs", 2, *CLONE)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_clone_of_frames_is_trained_scored_and_drives(run, tmp_path):
    assert isinstance(load_agent(run / "run", "bc"), PolicyHead)
    assert {p.name for p in (run / "run" / "bc").iterdir()} >= {"best.tar", "checkpoint.tar", "metrics.csv", "loss.png"}
    head = (run / "run" / "bc" / "metrics.csv").read_text().splitlines()[0]
    assert head == "epoch,method,loss,accuracy,val_loss,val_accuracy,return_mean,return_std"
    scores = [
        call(
            "test_controller", "--logdir", run / "run", "--controller", "bc", "--episodes", 3, "--max-workers", n
        ).stdout
        for n in (1, 2)
    ]
    assert scores[0].splitlines()[-1] == scores[1].splitlines()[-1] and "over 3 episodes" in scores[0]
    done = call("test_controller", "--logdir", run / "run", "--controller", "bc", "--record", tmp_path / "drive.mp4")
    assert done.returncode == 0 and (tmp_path / "drive.mp4").stat().st_size > 1000, done.stderr
    assert "has no dream to drive in" in complaint(
        call("test_controller", "--logdir", run / "run", "--controller", "bc", "--world", "dream", "--episodes", 1)
    )


def test_a_clone_that_stands_alone_is_exported_and_drives_unless_told_otherwise(run, tmp_path):
    done = call("data.exchange", "export", "--logdir", run / "run", "--out", tmp_path / "small")
    assert done.returncode == 0, done.stderr
    small = checkpoint.load_parent(tmp_path / "small", "bc")
    assert {value.dtype for value in small["model"].values()} == {torch.float16} and small["config"]["memory"] == "gru"
    done = call("test_controller", "--logdir", tmp_path / "small", "--episodes", 2, "--max-workers", 1)
    assert done.returncode == 0 and "bc in the simulator" in done.stdout, done.stderr


def test_a_clone_of_frames_goes_on_where_it_stopped(run, tmp_path):
    for epochs in (1, 2):
        done = call("trainbc", "--dataset", run / "data", "--logdir", tmp_path / "run", "--epochs", epochs, *CLONE)
        assert done.returncode == 0, done.stderr
    one, two = (checkpoint.load(folder / "bc" / "checkpoint.tar", "bc") for folder in (run / "run", tmp_path / "run"))
    assert one["history"] == two["history"]
    for kept in ("model", "average"):
        assert one[kept] and all(torch.equal(one[kept][name], value) for name, value in two[kept].items())


def test_the_average_of_the_weights_drives(run, tmp_path):
    done = call("trainbc", "--dataset", run / "data", "--logdir", tmp_path, "--epochs", 1, *CLONE)
    assert done.returncode == 0, done.stderr
    kept, best = checkpoint.load(tmp_path / "bc" / "checkpoint.tar", "bc"), checkpoint.load_parent(tmp_path, "bc")
    assert kept["average"]["n_averaged"] > 2 and not torch.equal(
        kept["average"]["module.head.weight"], kept["model"]["head.weight"]
    )
    assert all(torch.equal(kept["average"][f"module.{name}"], value) for name, value in best["model"].items())


def test_the_learning_rate_falls_to_nothing(run, tmp_path):
    """And is that of the command again where a run is resumed."""
    for options, rate in ((("--anneal",), 0.5), ((), 1.0), (("--learning-rate", 1e-4), 0.1)):
        epochs = 2 + 2 * (rate < 0.5)
        done = call(
            "trainbc",
            "--dataset",
            run / "data",
            "--logdir",
            tmp_path / "run",
            "--epochs",
            epochs + (not options),
            *CLONE,
            *options,
        )
        assert done.returncode == 0, done.stderr
        saved = checkpoint.load(tmp_path / "run" / "bc" / "checkpoint.tar", "bc")["optimizer"]["param_groups"]
        assert [group["lr"] for group in saved] == pytest.approx([1e-3 * rate] * 2)


def test_an_average_is_over_the_last_steps():
    model = torch.nn.Linear(1, 1)
    average = averaged(model, 10)
    for step in range(200):
        torch.nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(199 - 9, abs=0.01)  # of steps k ago with weight 0.1 x 0.9^k


def test_a_clone_of_frames_is_taught_where_it_goes_itself(run, tmp_path):
    """DAgger: what the clone drove is recorded with what the expert would have done, and cloned with the rest; more
    epochs continue."""
    folder = tmp_path / "run"
    shutil.copytree(run / "run", folder)
    dagger = ("--epochs", 2, "--method", "dagger", "--world", "simulator", "--rollouts", 3, "--passes", 2)
    for epochs, rate in ((1, 1.0), (2, 0.5)):  # the rate of the second of two
        done = call(
            "trainbc",
            "--dataset",
            run / "data",
            "--logdir",
            folder,
            *CLONE,
            *dagger,
            "--dream-epochs",
            epochs,
            "--anneal",
        )
        assert done.returncode == 0, done.stderr
        saved = checkpoint.load(folder / "bc" / "checkpoint.tar", "bc")["optimizer"]["param_groups"]
        assert [group["lr"] for group in saved] == pytest.approx([1e-3 * rate] * 2)
    rows = read_csv(folder / "bc" / "metrics.csv")
    driven = [Dataset.open(folder / "bc" / f"dagger_{k:03d}") for k in (0, 1)]
    assert [row["method"] for row in rows] == ["bc", "bc", "dagger", "dagger"] and [
        len(d.episodes) for d in driven
    ] == [3, 3]
    assert (
        driven[0].manifest.policies == ("clone",)
        and driven[0].manifest.max_steps == 60
        and driven[0].manifest.action_noise == 0.3
    )
    drivers = [d.manifest.controller["bc"] for d in driven]
    # who has learnt in between
    assert len(set(drivers)) == 2 and drivers[1] == checkpoint.load(folder / "bc" / "driver.tar", "bc")["digest"]
    recorded = FrameSequences(open_datasets([run / "data"]), "train", 8, 4)
    more = FrameSequences([*open_datasets([run / "data"]), *driven], "train", 8, 4)
    assert int(rows[-1]["steps"]) == len(more) > len(recorded)


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--model", "lstm"), "has memory gru, not lstm"),
        (("--units", 16), "has units 8, not 16"),
        (("--width", 8), "has width 4, not 8"),
        (("--hidden", 16), "--hidden is for clones on latents"),
        (("--method", "ditto"), "--method ditto is for clones on latents"),
        (("--method", "dagger"), "or give --world simulator"),
        (("--average", 0), "--average"),
        (("--shift", -1), "--shift"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(run, options, reason):
    before = contents(run / "run")
    done = call("trainbc", "--dataset", run / "data", "--logdir", run / "run", "--epochs", 3, *CLONE, *options)
    assert reason in complaint(done) and contents(run / "run") == before


def test_a_world_without_an_expert_cannot_be_asked(tmp_path):
    write_dataset(tmp_path / "data", LENGTHS, space=DISCRETE, env="gym:Acrobot-v1")
    done = call(
        "trainbc",
        "--dataset",
        tmp_path / "data",
        "--logdir",
        tmp_path / "run",
        *CLONE,
        "--method",
        "dagger",
        "--world",
        "simulator",
    )
    assert "gym:Acrobot-v1 has none" in complaint(done) and not (tmp_path / "run" / "bc" / "metrics.csv").exists()


@pytest.mark.parametrize("space", [{"type": "discrete", "n": 2}, DISCRETE], ids=["as many actions", "more"])
def test_a_clone_of_one_world_does_not_go_on_in_another(run, tmp_path, space):
    write_dataset(tmp_path / "data", LENGTHS, space=space, env="gym:Acrobot-v1")
    before = contents(run / "run")
    done = call("trainbc", "--dataset", tmp_path / "data", "--logdir", run / "run", "--epochs", 3, *CLONE)
    assert (
        "has env gym:Acrobot-v1" in complaint(done)
        and "checkpoint.tar has cartpole" in complaint(done)
        and contents(run / "run") == before
    )


def test_memory_goes_on_where_nobody_knows_what_the_expert_did():
    model, shown = policy("gru"), frames(2, 24)
    known = torch.ones(2, 24, dtype=torch.bool)
    known[:, 8:16] = False
    action = torch.eye(3)[torch.randint(3, (2, 24), generator=torch.Generator().manual_seed(0))]
    parts = [
        SimpleNamespace(
            frames=shown[:, at : at + 8], action=action[:, at : at + 8], known=known[:, at : at + 8], begins=not at
        )
        for at in (0, 8, 16)
    ]
    with Bar(disable=True) as bar, torch.no_grad():
        found = run_sequences(model, parts, CloneLoss(CHOICES), None, bar)["loss"]
        wanted = CloneLoss(CHOICES)(model(shown, model.initial_state(2))[0][known], action[known])
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_frames_are_wanted_and_named(run, tmp_path):
    assert "say which, with --dataset" in complaint(call("trainbc", "--model", "cfc", "--logdir", tmp_path))
    write_dataset(tmp_path / "numbers", LENGTHS, image=(6,))
    assert "holds 6 numbers a step" in complaint(
        call("trainbc", "--model", "cfc", "--dataset", tmp_path / "numbers", "--logdir", tmp_path)
    )


def test_small_policies_are_sent_whole_too(run):
    """Episodes of one policy share a batch however few its parameters are."""
    saved = checkpoint.load_parent(run / "run", "bc")
    vector = torch.nn.utils.parameters_to_vector(load_agent(run / "run", "bc").controller.parameters()).detach()
    with Evaluator("cartpole", DriverSpec("agent", run / "run", saved["config"]), 1) as evaluator:
        assert len(evaluator.returns([(vector, seed) for seed in (1, 2, 3)])) == 3 and vector.numel() < 100_000
