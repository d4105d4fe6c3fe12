"""Imports from ctallec/world-models, whose models are rebuilt here as that project defines them and must compute the same; exports of our runs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.exchange import export, import_checkpoint, import_npz, read_rollout
from data.shards import Dataset
from envs.carracing import frame
from envs.dream import DreamWorld
from models.agent import load_agent
from utils import checkpoint
from utils.errors import UserError


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
    models = {"vae": nn.ModuleDict({"encoder": TheirEncoder(), "decoder": TheirDecoder()}),
              "mdrnn": nn.ModuleDict({"rnn": nn.LSTM(35, 256), "gmm_linear": nn.Linear(256, 65 * 5 + 2)}),
              "ctrl": nn.ModuleDict({"fc": nn.Linear(288, 3)})}
    for stage, model in models.items():
        (tmp_path / "theirs" / stage).mkdir(parents=True)
        torch.save({"epoch": 3, "reward": np.float64(-812.5), "state_dict": model.state_dict()}, tmp_path / "theirs" / stage / "best.tar")
    return tmp_path / "theirs", models


def test_imported_models_compute_what_theirs_do(theirs, tmp_path):
    folder, models = theirs
    assert import_checkpoint(folder, tmp_path / "ours") == ["vae", "mdrnn", "ctrl"]
    agent = load_agent(tmp_path / "ours")
    obs = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        mu = models["vae"]["encoder"](obs)
        torch.testing.assert_close(agent.vae.encode(obs).mu, mu, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(agent.vae.decode(mu), models["vae"]["decoder"](mu), rtol=1e-4, atol=1e-5)
        action = torch.rand(2, 3)
        their_h, _ = models["mdrnn"]["rnn"](torch.cat([action, mu], -1)[None])
        out = models["mdrnn"]["gmm_linear"](their_h[0])
        pred, (h, _) = agent.mdrnn(mu[:, None], action[:, None])
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
    before = (tmp_path / "ours/vae/best.tar").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(theirs[0], tmp_path / "ours")
    assert (tmp_path / "ours/vae/best.tar").read_bytes() == before


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
    return {"observations": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8), "rewards": np.arange(n, dtype=np.float64),
            "actions": np.arange((n + extra) * 3, dtype=np.float64).reshape(-1, 3) / 100, "terminals": np.arange(n) == n - 1}


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


@pytest.mark.parametrize(("change", "message"), [
    ({"observations": np.zeros((5, 32, 32, 3), np.uint8)}, "64x64x3 are wanted"),
    ({"actions": np.zeros((3, 3))}, "5 or more"),
    ({"rewards": np.full(5, np.nan)}, "not finite"),
    ({"terminals": np.ones(5, bool)}, "after a terminal"),
    ({"rewards": np.array([object()] * 5)}, "cannot|can be read"),
])
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


def test_an_export_without_v_or_onto_another_run_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="give the --logdir of a run that has been trained"):
        export(tmp_path, tmp_path / "small")
    before = (trained.logdir / "vae" / "best.tar").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export(trained.logdir, trained.logdir)
    assert (trained.logdir / "vae" / "best.tar").read_bytes() == before
