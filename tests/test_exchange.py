"""Imports of ncps' demonstrations, and of ctallec/world-models, whose models are rebuilt here as that project defines
them and must compute the same; exports of runs."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dreamdrive.data.exchange import EXCHANGES, Exchange
from dreamdrive.data.foreign_run import import_checkpoint
from dreamdrive.data.halved_run import export
from dreamdrive.data.npz import import_ncps, import_npz, read_rollout, read_sequence
from dreamdrive.data.shards import Dataset, verify
from dreamdrive.driving.agent import load_agent
from dreamdrive.envs import make
from dreamdrive.envs.carracing import frame
from dreamdrive.envs.dream import DreamWorld
from dreamdrive.tests.tiny_run import call, complaint, contents, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder


class TheirEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        for i, (a, b) in enumerate([(3, 32), (32, 64), (64, 128), (128, 256)]):
            setattr(self, f"conv{i + 1}", nn.Conv2d(a, b, 4, stride=2))
        self.fc_mu, self.fc_logsigma = nn.Linear(1024, 32), nn.Linear(1024, 32)

    def forward(self, x):
        for i in range(4):
            x = F.relu(getattr(self, f"conv{i + 1}")(x))
        return self.fc_mu(x.reshape(len(x), -1))


class TheirDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(32, 1024)
        for i, (a, b, k) in enumerate([(1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]):
            setattr(self, f"deconv{i + 1}", nn.ConvTranspose2d(a, b, k, stride=2))

    def forward(self, x):
        x = F.relu(self.fc1(x))[..., None, None]
        for i in range(4):
            x = getattr(self, f"deconv{i + 1}")(x)
            x = F.relu(x) if i < 3 else torch.sigmoid(x)
        return x


@pytest.fixture
def theirs(tmp_path):
    """(folder, models) of a run of that project."""
    torch.manual_seed(0)
    models = {
        "vae": nn.ModuleDict({"encoder": TheirEncoder(), "decoder": TheirDecoder()}),
        "mdrnn": nn.ModuleDict({"rnn": nn.LSTM(35, 256), "gmm_linear": nn.Linear(256, 65 * 5 + 2)}),
        "ctrl": nn.ModuleDict({"fc": nn.Linear(288, 3)}),
    }
    for stage, model in models.items():
        (tmp_path / "theirs" / stage).mkdir(parents=True)
        torch.save(
            {"epoch": 3, "reward": np.float64(-812.5), "state_dict": model.state_dict()},
            tmp_path / "theirs" / stage / "best.tar",
        )
    return tmp_path / "theirs", models


def test_imported_models_compute_what_theirs_do(theirs, tmp_path):
    folder, models = theirs
    assert import_checkpoint(folder, tmp_path / "ours") == ["vae", "mdrnn", "ctrl"]
    agent = load_agent(tmp_path / "ours")
    obs = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        mu = models["vae"]["encoder"](obs)
        torch.testing.assert_close(agent.vision.encode(obs).mu, mu, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(agent.vision.decode(mu), models["vae"]["decoder"](mu), rtol=1e-4, atol=1e-5)
        action = torch.rand(2, 3)
        their_h, _ = models["mdrnn"]["rnn"](torch.cat([action, mu], -1)[None])
        out = models["mdrnn"]["gmm_linear"](their_h[0])
        pred, state = agent.memory(mu[:, None], action[:, None])
        h = state.h
        torch.testing.assert_close(h, their_h[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pred.mu[:, 0].flatten(1), out[:, :160], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pred.logsigma[:, 0].flatten(1), out[:, 160:320], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pred.logpi[:, 0], out[:, 320:325].log_softmax(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pred.reward[:, 0], out[:, -2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pred.terminal[:, 0], out[:, -1], rtol=1e-4, atol=1e-5)
        raw = models["ctrl"]["fc"](torch.cat([mu, h], -1))
        torch.testing.assert_close(agent.controller.outputs(mu, h), raw, rtol=1e-4, atol=1e-5)
    assert agent.world["env"] == "gym:CarRacing-v3"


def test_an_import_never_replaces_a_run(theirs, tmp_path):
    import_checkpoint(theirs[0], tmp_path / "ours")
    before = contents(tmp_path / "ours")
    import_checkpoint(theirs[0], tmp_path / "ours")
    assert contents(tmp_path / "ours") == before, "the same again, as after a kill"
    other = tmp_path / "ours" / "mdrnn" / "best.tar"
    other.write_bytes((tmp_path / "ours/ctrl/best.tar").read_bytes())
    before = contents(tmp_path / "ours")
    with pytest.raises(UserError, match="mdrnn/best.tar exists already"):
        import_checkpoint(theirs[0], tmp_path / "ours")
    assert contents(tmp_path / "ours") == before


@pytest.mark.parametrize(
    ("stage", "other", "said"),
    [
        ("vae", {"latent": 64}, r"mdrnn/best.tar takes 32 latents and 3 .* V makes 64 latents"),
        ("mdrnn", {"action": 2}, r"mdrnn/best.tar takes 32 latents and 2 numbers .* CarRacing has 3"),
        ("ctrl", {"inputs": 32 + 128}, r"ctrl/best.tar has weights \(3, 160\), .* V and M give it has \(3, 288\)"),
        ("ctrl", {"inputs": 0}, r"ctrl/best.tar has weights \(3, 0\)"),
    ],
)
def test_models_that_were_not_trained_together_are_refused(theirs, tmp_path, stage, other, said):
    folder, models = theirs
    state = models[stage].state_dict()
    if stage == "vae":
        state |= {f"encoder.fc_{name}.weight": torch.zeros(64, 1024) for name in ("mu", "logsigma")}
        state |= {f"encoder.fc_{name}.bias": torch.zeros(64) for name in ("mu", "logsigma")}
        state["decoder.fc1.weight"] = torch.zeros(1024, 64)
    elif stage == "mdrnn":
        state["rnn.weight_ih_l0"] = torch.zeros(1024, 32 + other["action"])
    else:
        state["fc.weight"] = torch.zeros(3, other["inputs"])
    torch.save({"state_dict": state}, folder / stage / "best.tar")
    with pytest.raises(UserError, match=said):
        import_checkpoint(folder, tmp_path / "ours")
    assert not (tmp_path / "ours" / "vae" / "best.tar").exists()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_checkpoint_is_refused_and_its_payload_does_not_run(theirs, tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, theirs[0] / "vae/best.tar")
    with pytest.raises(UserError, match="loaded safely"):
        import_checkpoint(theirs[0], tmp_path / "ours")
    assert not (tmp_path / "ran").exists()


def test_a_model_of_another_shape_is_refused(theirs, tmp_path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(4, 9)}}, theirs[0] / "ctrl/best.tar")
    with pytest.raises(UserError, match="ctrl/best.tar"):
        import_checkpoint(theirs[0], tmp_path / "ours")
    assert not (tmp_path / "ours" / "vae").exists()


def rollout(n=5, extra=3, size=96, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "rewards": np.arange(n, dtype=np.float64),
        "actions": np.arange((n + extra) * 3, dtype=np.float64).reshape(-1, 3) / 100,
        "terminals": np.arange(n) == n - 1,
    }


def test_imported_rollouts_are_shifted_by_one_and_cut(tmp_path):
    (tmp_path / "in/thread_0").mkdir(parents=True)
    for i in range(12):
        np.savez(tmp_path / f"in/thread_0/rollout_{i:02d}.npz", **rollout(seed=i))
    import_npz(tmp_path / "in", tmp_path / "out", 0.25)
    dataset = Dataset.open(tmp_path / "out")
    assert [e.split for e in dataset.episodes].count("val") == 3
    theirs = rollout(seed=0)
    with dataset.open_shard(dataset.shards[0]) as shard:
        assert shard.length[0] == 4
        # action 1 was chosen on seeing their observation 0, and earned reward 1
        np.testing.assert_array_equal(shard.frames(0, 5), np.stack([frame(o) for o in theirs["observations"]]))
        np.testing.assert_array_equal(shard.column("action")[:4], theirs["actions"][1:5].astype(np.float32))
        np.testing.assert_array_equal(shard.column("reward")[:4], [1, 2, 3, 4])
        np.testing.assert_array_equal(shard.column("terminated")[:4], [0, 0, 0, 1])
        assert np.isnan(shard.column("expert_action")).all()


def test_rollouts_in_half_precision_are_read(tmp_path):
    theirs = rollout() | {"rewards": np.linspace(-1, 2, 5, dtype=np.float16)}
    np.savez(tmp_path / "half.npz", **{**theirs, "actions": theirs["actions"].astype(np.float16)})
    episode = read_rollout(tmp_path / "half.npz", 0)
    episode.check()
    assert episode.reward.dtype == episode.action.dtype == np.float32
    np.testing.assert_array_equal(episode.reward, theirs["rewards"][1:].astype(np.float32))
    np.testing.assert_allclose(episode.action, theirs["actions"][1:5], atol=1e-3)


@pytest.mark.parametrize("share", ["nan", "inf", "5", "2", "1", "-1", "-0.5", "half"])
def test_a_share_for_validation_that_is_none_is_refused(tmp_path, share):
    np.savez(tmp_path / "rollout.npz", **rollout())
    done = call("data.exchange", "import", "npz", tmp_path, "--out", tmp_path / "out", "--val-fraction", share)
    assert "--val-fraction" in complaint(done) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": np.zeros((5, 32, 32, 3), np.uint8)}, "64x64x3 are wanted"),
        ({"actions": np.zeros((3, 3))}, "5 or more"),
        ({"rewards": np.full(5, np.nan)}, "not finite"),
        ({"terminals": np.ones(5, bool)}, "after a terminal"),
        ({"rewards": np.array([object()] * 5)}, "cannot|can be read"),
    ],
)
def test_bad_rollouts_are_named(tmp_path, change, message):
    np.savez(tmp_path / "bad.npz", **{**rollout(), **change})
    with pytest.raises(UserError, match=message) as error:
        read_rollout(tmp_path / "bad.npz", 0)
    assert "bad.npz" in str(error.value)


def test_a_truncated_rollout_is_named(tmp_path):
    np.savez(tmp_path / "bad.npz", **rollout())
    content = (tmp_path / "bad.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="bad.npz"):
        read_rollout(tmp_path / "bad.npz", 0)


def test_an_exported_run_is_half_as_large_and_drives_and_dreams_almost_the_same(trained, tmp_path):
    assert export(trained.logdir, tmp_path / "small") == ["vae", "mdrnn", "ctrl", "bc"]
    for stage in ("vae", "mdrnn", "ctrl", "bc"):
        small, large = (checkpoint.load_parent(logdir, stage) for logdir in (tmp_path / "small", trained.logdir))
        assert small["config"] == large["config"] and set(small) == set(large)
        for name, value in large["model"].items():
            assert small["model"][name].dtype == torch.float16
            torch.testing.assert_close(small["model"][name].float(), value, rtol=1e-3, atol=1e-6)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))
    z = []
    for logdir in (tmp_path / "small", trained.logdir):
        agent = load_agent(logdir, "bc")
        agent.reset(5)
        agent.act(frames)
        z.append(agent.z)
    torch.testing.assert_close(*z, rtol=0.02, atol=0.02)
    assert DreamWorld(tmp_path / "small", 2, "cpu").reset(0).float().std() > 0


def test_an_export_is_two_functions_and_one_line(tmp_path, monkeypatch):
    """Of a dataset here: the actions of each of its episodes, as a text file."""

    def flags(p):
        p.add_argument("--dataset", type=Path, required=True, help="folder written by stage 1")
        p.add_argument("--out", type=Path, required=True, help="folder of the new files")

    def write(args):
        episodes = [Dataset.open(args.dataset).episode(e) for e in range(2)]
        for i, episode in enumerate(episodes):
            np.savetxt(make_folder(args.out) / f"{i}.txt", episode.action)
        return f"{args.out}: {len(episodes)} files"

    write_dataset(tmp_path / "data", [5, 7])
    command = ("data.exchange", "export", "text", "--dataset", tmp_path / "data", "--out", tmp_path / "text")
    assert "argument kind: invalid choice: 'text'" in complaint(call(*command))
    monkeypatch.setitem(EXCHANGES["export"], "text", Exchange("actions to text", flags, write))
    done = call(*command)
    assert (done.returncode, done.stdout.strip()) == (0, f"{tmp_path / 'text'}: 2 files"), done.stderr
    for i, steps in enumerate((5, 7)):
        read = np.loadtxt(tmp_path / "text" / f"{i}.txt")
        np.testing.assert_allclose(read, Dataset.open(tmp_path / "data").episode(i).action)
        assert read.shape == (steps, 2)
    assert "text" in call("data.exchange", "export", "--help").stdout


def test_an_export_without_v_or_onto_another_run_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="give the --logdir of a run that has been trained"):
        export(tmp_path, tmp_path / "small")
    before = (trained.logdir / "vae" / "best.tar").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export(trained.logdir, trained.logdir)
    assert (trained.logdir / "vae" / "best.tar").read_bytes() == before


def sequence(seed=0, **change):
    rng = np.random.default_rng(seed)
    return {"obs": rng.integers(0, 256, (32, 84, 84, 4), dtype=np.uint8), "actions": rng.integers(0, 4, 32), **change}


def test_imported_sequences_of_ncps_keep_frames_actions_and_split(tmp_path):
    (tmp_path / "in").mkdir()
    for name, seed in (("train_0", 0), ("train_1", 1), ("val_0", 2)):
        np.savez_compressed(tmp_path / "in" / f"{name}.npz", **sequence(seed))
    import_ncps(tmp_path / "in", tmp_path / "out", "Breakout")
    assert verify(tmp_path / "out") == []
    dataset = Dataset.open(tmp_path / "out")
    assert [e.split for e in dataset.episodes] == ["train", "train", "val"] and dataset.manifest.env == "atari:Breakout"
    with dataset.open_shard(dataset.shards[0]) as shard:
        for i in range(3):
            theirs = sequence(i)
            frames, steps = (slice(offsets[i], offsets[i + 1]) for offsets in (shard.frame_offsets, shard.step_offsets))
            np.testing.assert_array_equal(shard.frames(frames.start, frames.stop), theirs["obs"])
            for column in ("action", "expert_action"):
                # nobody sees what the last one led to
                np.testing.assert_array_equal(shard.column(column)[steps], theirs["actions"][:31])
            assert (
                shard.column("truncated")[steps].tolist() == [0] * 30 + [1]
                and not shard.column("terminated")[steps].any()
            )


def test_what_ncps_demonstrations_show_is_what_the_world_shows(tmp_path):
    """So that they can be trained on together: the manifests agree in all that datasets of one run must agree in."""
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "train_0.npz", **sequence())
    imported = import_ncps(tmp_path / "in", tmp_path / "out", "Breakout")
    spec = make("atari:Breakout").spec
    assert (imported.env, imported.image_shape, imported.action_space, imported.options) == (
        spec.name,
        spec.image_shape,
        spec.plain_action_space,
        spec.options,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros((31, 84, 84, 4), np.uint8)}, r"obs uint8 \(31, 84, 84, 4\)"),
        ({"obs": np.zeros((32, 84, 84, 4), np.float32)}, "obs float32"),
        ({"actions": np.zeros((32, 1), np.int64)}, r"actions int64 \(32, 1\)"),
        ({"actions": np.zeros(32)}, "actions float64"),
        ({"actions": np.full(32, 4)}, "the game knows 0 to 3"),
        ({"actions": np.full(32, -1)}, "from -1 to -1"),
        ({"actions": np.array([object()] * 32)}, "cannot|can be read"),
    ],
)
def test_bad_sequences_are_named(tmp_path, change, message):
    np.savez(tmp_path / "train_0.npz", **sequence(**change))
    with pytest.raises(UserError, match=message) as error:
        read_sequence(tmp_path / "train_0.npz", 0, 4)
    assert "train_0.npz" in str(error.value) and "\n" not in str(error.value)


def header(shape):
    """An .npy file that says it holds uint8 of this shape, and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        {"obs.npy": b"", "actions.npy": b""},
        {"obs.npy": header((1 << 40,)), "actions.npy": header((32,))},
        {"obs.npy": b"\x93NUMPY" + b"\xff" * 40, "actions.npy": b"x"},
        {"obs": b"raw", "actions": b"raw"},
        {},
    ],
)
def test_hostile_archives_are_refused_in_a_sentence(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "train_0.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="train_0.npz is not a sequence") as error:
        read_sequence(tmp_path / "train_0.npz", 0, 4)
    assert "\n" not in str(error.value)


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamdrive.data.npz.LARGEST", 100_000)
    np.savez_compressed(tmp_path / "train_0.npz", **sequence(obs=np.zeros((32, 84, 84, 4), np.uint8)))
    with pytest.raises(UserError, match="it unpacks to 903296 bytes"):
        read_sequence(tmp_path / "train_0.npz", 0, 4)


def test_a_file_that_is_no_archive_and_a_folder_without_any_are_refused(tmp_path):
    (tmp_path / "train_0.npz").write_bytes(b"not a zip file")
    with pytest.raises(UserError, match="train_0.npz is not a sequence"):
        read_sequence(tmp_path / "train_0.npz", 0, 4)
    (tmp_path / "empty").mkdir()
    said = complaint(call("data.exchange", "import-ncps", tmp_path / "empty", "--out", tmp_path / "out"))
    assert "holds no train_*.npz and no val_*.npz" in said and not (tmp_path / "out").exists()
    said = complaint(call("data.exchange", "import-ncps", tmp_path, "--out", tmp_path / "out", "--game", "Nothing"))
    assert 'there is no Atari game "Nothing"' in said
