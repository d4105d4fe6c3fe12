"""Losses of supervised cloning."""

import pytest
import torch
from torch.distributions import Categorical, Normal

from dreamdrive.learning.cloning import Cloning
from dreamdrive.models.cloning import CloneLoss, run_epoch
from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.tests.tiny_run import BOX, DISCRETE, TINY, call, complaint, contents, copy_run
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

NUMBERS, CHOICES = ActionSpace.from_dict(BOX), ActionSpace.from_dict(DISCRETE)


@pytest.fixture
def steps():
    """Outputs and an expert's actions (64, 2)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 2, generator=generator), torch.randn(64, 2, generator=generator)


def test_squared_error_is_summed_over_components(steps):
    assert CloneLoss(NUMBERS)(*steps) == pytest.approx(float(((steps[0] - steps[1]) ** 2).sum() / 64))


def test_the_gaussian_loss_is_a_likelihood(steps):
    criterion = CloneLoss(NUMBERS, "gaussian")
    criterion.log_spread.data = torch.tensor([0.3, -0.5])
    expected = -Normal(steps[0], criterion.log_spread.exp()).log_prob(steps[1]).sum(1).mean()
    torch.testing.assert_close(criterion(*steps), expected)


def test_cross_entropy_is_a_likelihood_too():
    outputs, action = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    torch.testing.assert_close(
        CloneLoss(CHOICES)(outputs, torch.eye(3)[action]), -Categorical(logits=outputs).log_prob(action).mean()
    )


def test_noise_and_smoothing_are_for_training_only(steps):
    for space, options, labels in (
        (NUMBERS, {"noise": 0.5}, steps[1]),
        (CHOICES, {"smoothing": 0.3}, torch.eye(3)[torch.arange(64) % 3]),
    ):
        outputs = steps[0] if space is NUMBERS else torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        plain, criterion = CloneLoss(space)(outputs, labels), CloneLoss(space, **options)
        assert (
            not torch.isclose(criterion.train()(outputs, labels), plain, rtol=0.01)
            and criterion.eval()(outputs, labels) == plain
        )


def test_the_spread_that_is_learnt_is_that_of_the_errors():
    """An expert that nothing can be told of but its mean, 0.5 in both components, of spread 1 and 0.1."""
    torch.manual_seed(0)
    model, criterion = Controller(ControllerConfig(2, 0, "z", 0, BOX)), CloneLoss(NUMBERS, "gaussian")
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], 1e-2)
    action = 0.5 + torch.randn(512, 2) * torch.tensor([1.0, 0.1])
    with Bar(disable=True) as bar:
        for _ in range(600):
            run_epoch(model, [(torch.randn(512, 2), torch.zeros(512, 0), action)], criterion, optimizer, bar)
    torch.testing.assert_close(criterion.log_spread.exp().detach(), action.std(0), rtol=0.1, atol=0)
    torch.testing.assert_close(model.layers[0].bias.detach(), action.mean(0), rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--loss", "gaussian"), "--loss is for actions that are numbers, and those of gym:CartPole-v1 are choices"),
        (("--action-noise", 0.1), "--action-noise is for actions that are numbers"),
        (("--label-smoothing", 1), "less than 1, not 1"),
    ],
)
def test_losses_of_another_kind_of_action_are_refused(trained, options, reason):
    before = contents(trained.logdir)
    assert (
        reason in complaint(call("trainbc", "--logdir", trained.logdir, "--epochs", 9, *options))
        and contents(trained.logdir) == before
    )


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--shift", 2), "--shift is for --model"),
        (("--updates", 3), "--updates is for --method ditto"),
        (("--teacher", "--anneal"), "--anneal is for cloning without --teacher"),
        (("--method", "ditto", "--passes", 3), "--passes is for --method dagger"),
        (("--method", "dagger", "--rollouts", 3), "--rollouts is for --method dagger --world simulator"),
        (("--method", "dagger", "--world", "simulator", "--dreams", 3), "--dreams is for --method ditto, or dagger in"),
        (("--teacher", "--horizon", 9), "--horizon is for --world dream"),
        (("--teacher", "--model", "cfc", "--hidden", 9), "--hidden is for a lesson without --model"),
        (("--teacher", "--world", "dream", "--sticky", 0.5), "--sticky is for --world simulator"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(tmp_path, options, reason):
    done = call("trainbc", "--logdir", tmp_path / "run", *options)
    assert done.returncode == 2 and reason in done.stderr and not (tmp_path / "run").exists()


def test_a_smoothed_clone_is_trained(trained, tmp_path):
    run = copy_run(trained, tmp_path / "run")
    done = call(
        "trainbc",
        "--logdir",
        run.logdir,
        "--noreload",
        "--epochs",
        1,
        "--n-samples",
        1,
        "--max-workers",
        1,
        "--label-smoothing",
        0.1,
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(run.logdir / "bc" / "checkpoint.tar", "bc")["settings"] == {
        "loss": "squared",
        "seed": 0,
        "world": "dream",
    }


def test_dagger_goes_on_in_the_world_that_it_began_in(trained, tmp_path, monkeypatch):
    run = copy_run(trained, tmp_path / "run")
    monkeypatch.setattr("dreamdrive.learning.cloning_inputs.report", lambda *_: None)
    # CartPole has none, and that would be said first
    monkeypatch.setattr("dreamdrive.learning.cloning.require_expert", lambda *_: None)
    dagger = ("trainbc", *TINY["trainbc"], "--logdir", run.logdir, "--method", "dagger", "--horizon", 5)
    assert call(*dagger, "--dream-epochs", 1).returncode == 0
    before = contents(run.logdir)
    done = call(*dagger, "--dream-epochs", 2, "--world", "simulator")
    assert (
        "since then by --method dagger in the dream: give --epochs 2 --method dagger," in complaint(done)
        and contents(run.logdir) == before
    )


def test_a_clone_of_one_seed_does_not_go_on_with_another(trained, tmp_path):
    """Else its epochs would be chosen by different episodes; and one that is done would be taken for the other."""
    run = copy_run(trained, tmp_path / "run")
    before = contents(run.logdir)
    for epochs in (2, 3):
        done = call("trainbc", *TINY["trainbc"], "--logdir", run.logdir, "--epochs", epochs, "--seed", 1)
        assert "began with --seed 0, and now it is 1" in complaint(done) and contents(run.logdir) == before


@pytest.mark.parametrize("method", ["dagger", "ditto"])
def test_dreams_begin_after_all_cloning_that_was_done(trained, tmp_path, method):
    run = copy_run(trained, tmp_path / "run")
    before = contents(run.logdir)
    done = call(
        "trainbc", *TINY["trainbc"], "--logdir", run.logdir, "--epochs", 1, "--method", method, "--dream-epochs", 3
    )
    assert (
        "cloned for 2 epochs" in complaint(done)
        and "give --epochs 2 to begin with the best of them" in complaint(done)
        and contents(run.logdir) == before
    )


def test_the_epoch_that_a_run_was_stopped_after_is_scored_if_it_becomes_the_last(trained, tmp_path, monkeypatch):
    """Before the dream, which begins with the best that was scored, and at the end."""
    monkeypatch.setattr("dreamdrive.learning.cloning_inputs.report", lambda *_: None)
    run, straight, keep = copy_run(trained, tmp_path / "run"), copy_run(trained, tmp_path / "straight"), Cloning._keep

    def keep_and_stop(self):
        keep(self)
        raise UserError("stopped")

    def go_on(logdir, epochs, dreamt, *more, stop=False):
        with monkeypatch.context() as patched:
            patched.setattr(Cloning, "_keep", keep_and_stop if stop else keep)
            done = call(
                "trainbc",
                *TINY["trainbc"],
                "--evaluate-every",
                9,
                "--method",
                "ditto",
                "--updates",
                1,
                "--horizon",
                5,
                "--logdir",
                logdir,
                "--epochs",
                epochs,
                "--dream-epochs",
                dreamt,
                *more,
            )
        assert done.returncode == stop, done.stderr

    go_on(run.logdir, 3, 3, "--noreload", stop=True)  # after the first of three
    go_on(run.logdir, 1, 3, stop=True)  # which is scored now
    go_on(run.logdir, 1, 3, stop=True)  # after the first dreamt of three
    go_on(run.logdir, 1, 1)
    go_on(straight.logdir, 1, 1, "--noreload")
    for name in ("best.tar", "checkpoint.tar", "metrics.csv"):
        assert (run.logdir / "bc" / name).read_bytes() == (straight.logdir / "bc" / name).read_bytes()
