"""train.py: all stages in rounds, resumed to the same bytes, and the choice between rounds."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dreamdrive.data.manifest import read_manifest, write_manifest
from dreamdrive.driving.evaluation import Evaluator
from dreamdrive.learning import rounds
from dreamdrive.learning.actor_settings import ActorSettings
from dreamdrive.learning.memory_settings import MDRNNSettings
from dreamdrive.learning.rounds_settings import RoundsSettings
from dreamdrive.learning.vision_settings import VAESettings
from dreamdrive.tests.tiny_run import call, complaint, user, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.seeds import selection_seeds

TINY = (
    *("--env", "cartpole", "--repeat", 2, "--random", 10, "--episodes", 4, "--latent", 8, "--vision-epochs", 1),
    *("--vision-updates", 1),
    *("--memory-updates", 6, "--memory-more", 3, "--actor-updates", 50, "--actor-more", 50, "--horizon", 4),
    *("--actor-settles", 100),
    *("--candidates", 2, "--selection-episodes", 2, "--max-workers", 1, "--device", "cpu"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two rounds after the first."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    user("train.py", *TINY, "--rounds", 2, "--vision-every", 2, "--vision-more", 1, "--logdir", folder)
    return folder


def said(run, name: str) -> dict:
    return json.loads((run / "rounds" / name).read_text())


def test_a_round_tells_each_stage_what_it_means_to_and_nothing_else():
    """Settings are passed on by name: one of M's that is called as one of the actor's would change both."""
    args = RoundsSettings()
    common = {"anneal", "keep", "dataset", "mirror", "epochs"}
    world = {"env"}  # which is that of what was recorded
    meant = {
        VAESettings: common | {"fine_shades", "returns"},
        MDRNNSettings: common | world | {"batch_size", "learning_rate", "updates", "adopt"},
        ActorSettings: world | {"adopt", "updates", "evaluate_every"},
    }
    for told in (args.vision(12, ()), args.memory(0, ()), args.actor(0)):
        kind = type(told)
        others = {name for name, field in kind.flags().items() if getattr(told, name) != field.default}
        assert others == meant[kind], kind


def test_a_clone_is_of_the_experts_episodes_and_not_chosen_between():
    told = RoundsSettings(expert=2, clone=4, logdir=Path("run")).cloning(Path("experts"))
    others = {name: getattr(told, name) for name, field in told.flags().items() if getattr(told, name) != field.default}
    meant = {"dataset": (Path("experts"),), "hidden": 256, "epochs": 4, "evaluate_every": 4, "n_samples": 1}
    assert others == {**meant, "env": "carracing", "logdir": Path("run")}


def test_the_actor_drives_as_its_clone_until_the_critic_has_learnt():
    told = RoundsSettings(expert=2, clone=4, actor_updates=300, logdir=Path("run"))
    first, later = told.actor(0), told.actor(1)
    assert first.critic_first == first.updates == 300 and first.init == Path("run/bc/best.tar")
    assert later.critic_first == 0 and later.updates > 300 and later.init is None


@pytest.mark.slow
def test_an_actor_begins_as_the_clone_of_an_expert(tmp_path):
    flags = (*TINY, "--random", 2, "--expert", 3, "--expert-noise", 0.6, "--clone", 2, "--rounds", 0)
    flags = (*flags, "--logdir", tmp_path / "run")
    done = user("train.py", *flags)
    clone = checkpoint.load(tmp_path / "run/bc/best.tar", "bc")
    assert clone["epoch"] == 2 and clone["parents"] == digests(tmp_path / "run", ("vae", "mdrnn"))
    assert f"the actor begins as {tmp_path / 'run/bc/best.tar'}" in done.stdout
    assert said(tmp_path / "run", "00.json")["recorded"].keys() == {"random", "expert"}
    noise = {kind: read_manifest(tmp_path / "run/rounds/00" / kind).action_noise for kind in ("random", "expert")}
    assert noise == {"random": 0.0, "expert": 0.6}
    again = user("train.py", *flags)
    assert "the actor begins as" not in again.stdout, "nothing is done twice"


def test_what_is_of_an_expert_needs_one(tmp_path):
    done = call("train", *TINY, "--expert-noise", 0.6, "--logdir", tmp_path / "run")
    assert "--expert-noise is for an expert's episodes, with --expert" in complaint(done)
    done = call("train", *TINY, "--clone", 2, "--logdir", tmp_path / "run")
    assert "--clone 2 is of an expert's episodes, and --expert is 0" in complaint(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--head", "once"), "--head once foresees tokens, and a V of --kind vae has none"),
        (("--kind", "fsq", "--core", "tokens"), "--core tokens foresees tokens, not a mixture"),
        (("--dropout", 0.5), "--dropout is for a head of tokens"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_before_anything_is_recorded(flags, said, tmp_path):
    assert said in complaint(call("train", *TINY, *flags, "--logdir", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def digests(run: Path, stages: tuple[str, ...]) -> dict[str, str]:
    return {stage: checkpoint.load_parent(run, stage)["digest"] for stage in stages}


def test_a_round_records_with_the_driver_of_the_one_before(run):
    for number in (1, 2):
        manifest = json.loads((run / f"rounds/{number:02d}/clean/manifest.json").read_text())
        digests = said(run, f"{number - 1:02d}.json")["digests"]
        assert manifest["controller"] == digests and manifest["policy"] == "controller"
    seeds = [
        episode["seed"]
        for folder in sorted((run / "rounds").glob("0?/*/manifest.json"))
        for episode in json.loads(folder.read_text())["episodes"]
    ]
    assert len(set(seeds)) == len(seeds) == 10 + 2 * 4, "no two episodes are of one seed"


@pytest.mark.parametrize(("by_place", "share"), [(False, 0.0), (True, None)])
def test_what_is_for_validation_is_up_to_a_world_that_keeps_places_for_it(tmp_path, by_place, share):
    """Else the actor's episodes are all learnt from."""
    told = rounds.Rounds(RoundsSettings(logdir=tmp_path, random=2))
    folder = tmp_path / "rounds" / "00" / "random"
    dataset = write_dataset(folder, [3, 3], image=(8, 8, 3))
    write_manifest(folder, replace(dataset.manifest, by_place=by_place))
    assert [plan["val_fraction"] for plan in told._plans(1).values()] == [share, share]


def test_what_is_said_of_a_round_is_what_its_folder_holds(run):
    frames = [said(run, f"{number:02d}.json")["frames"] for number in range(3)]
    assert 0 < frames[0] < frames[1] < frames[2] and all(count % 2 == 0 for count in frames)
    for number in range(3):
        own = run / f"rounds/{number:02d}"
        for stage, digest in said(run, f"{number:02d}.json")["digests"].items():
            assert checkpoint.load_parent(own, stage)["digest"] == digest
    vision = [said(run, f"{number:02d}.json")["digests"]["vae"] for number in range(3)]
    assert vision[0] == vision[1] != vision[2], "V learns on in every second round"
    memory = checkpoint.load(run / "mdrnn/checkpoint.tar", "mdrnn")
    assert len(memory["history"]) == 9 and memory["epoch"] == 9
    assert checkpoint.load_parent(run, "ctrl")["updates"] == 150
    assert memory["mirror"] and checkpoint.load(run / "vae/checkpoint.tar", "vae")["settings"]["mirror"]


def test_the_best_of_the_rounds_that_recorded_best_and_the_last_is_chosen(run):
    chosen = said(run, "chosen.json")
    assert len(chosen["rounds"]) == 3 and chosen["rounds"][1:] == ["02", "settled"] and chosen["frames"] > 0
    means = {name: sum(values) for name, values in chosen["returns"].items()}
    assert max(means, key=means.__getitem__) == chosen["best"]
    best, own = run / "rounds/best/ctrl/best.tar", run / f"rounds/{chosen['best']}/ctrl/best.tar"
    assert os.path.samefile(best, own)
    scored = call("test_controller", "--logdir", run / "rounds/best", "--episodes", 2, "--max-workers", 1)
    assert scored.returncode == 0 and "ctrl in the simulator" in scored.stdout
    assert (run / "rounds/curve.png").stat().st_size > 5000


def test_no_episode_counts_twice_in_the_choice(run, monkeypatch):
    """Of the seeds that lead to one ego in one scene, where a world has few of them, the first is driven."""
    driven = []

    class Few(Evaluator):
        def different(self, seeds):
            return list(seeds)[::2]

        def returns(self, tasks, bar=None, patience=0):
            driven.extend(seed for _, seed in tasks)
            return [0.0] * len(tasks)

    monkeypatch.setattr(rounds, "Evaluator", Few)
    args = RoundsSettings(env="cartpole", selection_episodes=6, seed=0, max_workers=1)
    history = [{"frames": 0}, {"round": 1, "frames": 1, "recorded": {"clean": [1.0]}}]
    returns, _ = rounds.Choice(args, run / "rounds", history)._drive(run / "rounds/best")
    assert driven == selection_seeds(0, 6)[::2] and len(returns) == 3


def test_m_and_the_actor_settle_after_the_last_round_beside_it(run):
    """From what they were then, on the same episodes, in a run by itself; the rates fall."""
    last, settled = run / "rounds/02", run / "rounds/settled"
    mark = said(run, "settled.json")
    assert mark["from"] == said(run, "02.json")["digests"] and mark["updates"] == 100
    assert mark["digests"] == digests(settled, ("vae", "mdrnn", "ctrl"))
    assert checkpoint.load_parent(run, "ctrl")["digest"] == checkpoint.load_parent(last, "ctrl")["digest"]
    assert checkpoint.load_parent(settled, "vae")["digest"] == checkpoint.load_parent(last, "vae")["digest"]
    before, after = (checkpoint.load(folder / "mdrnn/checkpoint.tar", "mdrnn") for folder in (run, settled))
    assert (before["epoch"], after["epoch"]) == (9, 12) and after["datasets"] == before["datasets"]
    assert after["history"][-1]["learning_rate"] < before["history"][-1]["learning_rate"]
    actor = checkpoint.load(settled / "ctrl/checkpoint.tar", "ctrl")
    assert (
        actor["updates"] == 250
        and actor["history"][:3] == checkpoint.load(run / "ctrl/checkpoint.tar", "ctrl")["history"]
    )
    rates = [optimizer["param_groups"][0]["lr"] for optimizer in actor["learner"]["optimizers"]]
    whole = RoundsSettings().actor(2).how
    assert rates == pytest.approx([0.55 * whole.actor_rate, 0.55 * whole.critic_rate]), "of the last of two rows"


def test_what_has_settled_is_left_alone(run):
    again = call("train", *TINY, "--rounds", 2, "--vision-every", 2, "--vision-more", 1, "--logdir", run)
    assert again.returncode == 0 and "frames recorded" in again.stdout and "M and the actor settle" not in again.stdout


@pytest.mark.slow
def test_a_run_in_pieces_is_the_same_to_the_byte(run, tmp_path):
    """Stopped between rounds, and in the middle of one: after M has learnt on, and the actor has not."""
    whole = tmp_path / "whole"
    run.rename(whole)  # checkpoints name the datasets, so that the pieces have to be where the whole was
    flags = (*TINY, "--vision-every", 2, "--vision-more", 1, "--logdir", run)
    user("train.py", *flags, "--rounds", 1)
    shutil.copytree(run / "ctrl", tmp_path / "ctrl")
    user("train.py", *flags, "--rounds", 2)
    (run / "rounds/02.json").unlink()
    shutil.rmtree(run / "ctrl")
    shutil.copytree(tmp_path / "ctrl", run / "ctrl")
    user("train.py", *flags, "--rounds", 2)
    kept = [path for path in sorted(whole.rglob("*")) if path.suffix in (".tar", ".h5", ".json", ".csv")]
    compared = [path for path in kept if path.name != "args.json" and path.parent.name != "scores"]
    assert len(compared) > 40
    for path in compared:
        assert path.read_bytes() == (run / path.relative_to(whole)).read_bytes(), path


def test_what_has_learnt_on_cannot_settle_from_an_earlier_round(run):
    done = call("train", *TINY, "--rounds", 1, "--vision-every", 2, "--vision-more", 1, "--logdir", run)
    assert "has learnt on since round 1, from which M and the actor are to settle" in complaint(done)


def test_another_setting_is_refused(run):
    done = call("train", *TINY, "--rounds", 2, "--vision-every", 2, "--vision-more", 1, "--logdir", run, "--seed", 1)
    assert "is of a run with seed 0, not 1: give the same, or another --logdir" in complaint(done)
