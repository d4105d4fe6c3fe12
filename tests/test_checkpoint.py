"""A checkpoint is loaded as it was written, or refused in one sentence; nothing in it can run."""

import hashlib
import os
import pickle
import resource
import shutil

import pytest
import torch

from dreamdrive.tests.tiny_run import TINY, call, complaint, contents, copy_run, tiny
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError


class Payload:
    """What a hostile pickle does when it is loaded: create a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


SPACE = {"type": "discrete", "n": 3}
CONFIG = {"latent": 4, "recurrent": 0, "features": "state", "hidden": 0, "action_space": SPACE}
WEIGHTS = {"layers.0.weight": torch.arange(12.0).view(3, 4), "layers.0.bias": torch.zeros(3)}
WORLD = {"env": "cartpole", "image_shape": [4], "action_space": SPACE, "dt": 0.02, "max_steps": 500}


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint with something of everything in it."""
    target = tmp_path / "run" / "bc" / "best.tar"
    target.parent.mkdir(parents=True)
    checkpoint.save(target, "bc", CONFIG, WEIGHTS, {}, world=WORLD, best=1.5)
    return target


def equal(one, other):
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.stride() == other.stride()
            and torch.equal(one, other)
        )
    return one == other


def refusal(source, stage="bc"):
    with pytest.raises(UserError) as error:
        checkpoint.load(source, stage)
    sentence = str(error.value)
    assert (
        "\n" not in sentence
        and str(source) in sentence
        and f"python trainbc.py --logdir {source.parent.parent}" in sentence
    )
    return sentence


def test_what_is_saved_is_loaded_with_the_digest_of_the_file(saved):
    loaded = checkpoint.load(saved, "bc")
    assert loaded.pop("digest") == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert equal(
        loaded,
        {"stage": "bc", "schema": 1, "config": CONFIG, "model": WEIGHTS, "parents": {}, "world": WORLD, "best": 1.5},
    )


def test_the_same_values_give_the_same_bytes_whether_or_not_equal_strings_are_one_object(tmp_path):
    """Those of a resumed run's history come out of a file, those of an uninterrupted one out of the code."""
    one, two = "loss", "".join(["lo", "ss"])
    assert one is not two
    for name, history in {"one": [{one: 1.0}, {one: 2.0}], "two": [{one: 1.0}, {two: 2.0}]}.items():
        checkpoint.save(tmp_path / name, "vae", {}, {}, {}, history=history)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_truncated_file_is_refused_wherever_it_was_cut(saved):
    whole = saved.read_bytes()
    for length in (0, 1, 4, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        saved.write_bytes(whole[:length])
        assert "is damaged" in refusal(saved)


def test_flipped_bits_never_load_as_other_values(saved):
    """Some bits mean nothing, such as those of padding; all others must be noticed."""
    wanted, whole, refused = checkpoint.load(saved, "bc"), saved.read_bytes(), 0
    del wanted["digest"]
    for place in range(0, len(whole), 3):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            loaded = checkpoint.load(saved, "bc")
        except UserError:
            refused += 1
        else:
            del loaded["digest"]
            assert equal(loaded, wanted), f"byte {place}"
    assert refused > len(whole) / 3 / 5


def test_a_flipped_bit_in_a_weight_is_noticed(saved):
    whole = saved.read_bytes()
    place = whole.index(torch.arange(12.0).numpy().tobytes()) + 7
    saved.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    assert "does not match its checksum" in refusal(saved)


def test_another_schema_and_another_stage_are_refused(saved):
    torch.save({"stage": "bc", "schema": 99}, saved)
    assert "schema version 99, this version of dreamdrive reads 1" in refusal(saved)
    torch.save({"stage": "mdrnn", "schema": 1}, saved)
    assert "is not a checkpoint of stage \"bc\" (its stage is 'mdrnn')" in refusal(saved)
    for foreign in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(foreign, saved)
        assert "its stage is None" in refusal(saved)


def test_a_hostile_pickle_is_refused_and_its_payload_does_not_run(saved, tmp_path):
    mark = tmp_path / "ran"
    hostile = {"stage": "bc", "schema": 1, "config": Payload(mark)}
    torch.save(hostile, saved)
    assert "objects other than tensors and plain values" in refusal(saved) and not mark.exists()
    torch.save(hostile, saved, _use_new_zipfile_serialization=False)
    assert "is damaged" in refusal(saved) and not mark.exists()
    saved.write_bytes(pickle.dumps(hostile))
    assert "is damaged" in refusal(saved) and not mark.exists()
    torch.save(hostile, saved)
    torch.load(saved, weights_only=False)
    assert mark.exists(), "the payload is harmless, so this test shows nothing"


def test_a_missing_or_unreadable_file_names_the_command_that_makes_it(tmp_path):
    missing = tmp_path / "run" / "bc" / "best.tar"
    assert refusal(missing) == f"{missing} is missing: run `python trainbc.py --logdir {tmp_path / 'run'}` first"
    missing.mkdir(parents=True)
    assert "cannot be read (Is a directory)" in refusal(missing)


def test_a_disk_that_is_full_leaves_the_old_file_whole_and_no_litter(saved):
    before, (soft, hard) = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a limit on the size of files stands for the disk
    try:
        with pytest.raises(UserError, match=r"could not be written \(File too large\): free some space"):
            checkpoint.save(saved, "bc", CONFIG, {"weight": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == ["best.tar"]


def test_a_stage_cleans_up_after_a_killed_run_and_runs_once_at_a_time(tmp_path):
    with checkpoint.stage_folder(tmp_path, "ctrl") as folder:
        (folder / "best.tar").touch()
        (folder / ".best.tar.123.tmp").touch()
        with (
            pytest.raises(UserError, match="another traincontroller.py is running in"),
            checkpoint.stage_folder(tmp_path, "ctrl"),
        ):
            pass
    with checkpoint.stage_folder(tmp_path, "ctrl") as folder:
        assert sorted(p.name for p in folder.iterdir()) == [".lock", "best.tar"]


def retrain(logdir, stage):
    """Stands for a parent trained anew: the same sizes, other weights."""
    source = checkpoint.path(logdir, stage)
    saved = {k: v for k, v in checkpoint.load(source, stage).items() if k not in ("stage", "schema", "digest")}
    saved["model"] = {name: value + 0.01 for name, value in saved["model"].items()}
    checkpoint.save(source, stage, **saved)


@pytest.mark.parametrize(
    ("parent", "module", "child"),
    [
        ("vae", "trainmdrnn", "trainmdrnn.py"),
        ("vae", "traincontroller", "trainmdrnn.py"),
        ("vae", "trainbc", "trainmdrnn.py"),
        ("vae", "test_controller", "trainmdrnn.py"),
        ("mdrnn", "traincontroller", "traincontroller.py"),
        ("mdrnn", "trainbc", "trainbc.py"),
        ("mdrnn", "test_controller", "traincontroller.py"),
    ],
)
def test_a_child_whose_parent_was_retrained_refuses_and_names_the_command(parent, module, child, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    retrain(run.logdir, parent)
    before = {name: content for name, content in contents(run.logdir).items() if "latents" not in name}
    said = complaint(call(module, "--logdir", run.logdir, *TINY.get(module, ())))
    assert (
        f"was trained on {parent} " in said
        and f"run `python {child} --logdir {run.logdir} --noreload` to train it anew" in said
    )
    assert before == {name: content for name, content in contents(run.logdir).items() if "latents" not in name}


def test_a_clone_of_another_world_model_is_no_start_for_evolution(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    said = complaint(
        call(
            "traincontroller",
            "--logdir",
            run.logdir,
            *TINY["traincontroller"],
            "--init",
            run.logdir / "ctrl" / "best.tar",
        )
    )
    assert 'is not a checkpoint of stage "bc"' in said


# What a fresh start would replace


@pytest.mark.parametrize(
    ("module", "stage", "flags"),
    [
        ("trainvae", "vae", ("--dataset", "DATA")),
        ("trainmdrnn", "mdrnn", ()),
        ("traincontroller", "ctrl", ()),
        ("trainbc", "bc", ()),
        ("trainbc", "bc", ("--teacher", "--trials", 1)),
    ],
    ids=["vae", "mdrnn", "ctrl", "bc", "lesson"],
)
def test_a_best_tar_that_nothing_can_be_resumed_from_is_not_replaced_unasked(module, stage, flags, trained, tmp_path):
    run = copy_run(trained, tmp_path)
    (run.logdir / stage / "checkpoint.tar").unlink()
    before = contents(run.logdir)
    options = [trained.data if flag == "DATA" else flag for flag in flags]
    tiny_flags = () if "--teacher" in flags else TINY[module]
    said = complaint(call(module, "--logdir", run.logdir, *tiny_flags, *options))
    assert f"{run.logdir}/{stage}/best.tar is there, and no checkpoint.tar to resume" in said and "--noreload" in said
    assert contents(run.logdir) == before


def test_a_run_stopped_between_its_first_best_tar_and_checkpoint_tar_is_begun_again(trained, tmp_path, monkeypatch):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run.logdir / "mdrnn")
    save = checkpoint.save

    def stop(target, *args, **more):
        if target.name == "checkpoint.tar":
            raise UserError("stopped")
        save(target, *args, **more)

    monkeypatch.setattr(checkpoint, "save", stop)
    assert "stopped" in complaint(call("trainmdrnn", "--logdir", run.logdir, *TINY["trainmdrnn"]))
    assert sorted(path.name for path in (run.logdir / "mdrnn").glob("*.tar")) == ["best.tar"]
    monkeypatch.undo()
    tiny("trainmdrnn", "--logdir", run.logdir)
    for name in ("best.tar", "checkpoint.tar"):
        assert (run.logdir / "mdrnn" / name).read_bytes() == (trained.logdir / "mdrnn" / name).read_bytes()
