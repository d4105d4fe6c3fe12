"""Files of others that benchmarks/mutations.py changes: archives of rollouts, demonstrations and models, a dataset of
Minari's, and scenes of traffic."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamdrive import envs
from dreamdrive.benchmarks import hdf5_mutations
from dreamdrive.benchmarks.mutated_files import BY_ITSELF, HEAD, Outcome, Subject, alike, change_value, episode
from dreamdrive.data import shards
from dreamdrive.data.foreign_run import import_checkpoint
from dreamdrive.data.minari_export import export_minari
from dreamdrive.data.minari_import import Wanted, import_minari
from dreamdrive.data.npz import import_npz, read_sequence
from dreamdrive.data.shards import Dataset, pieces, write_dataset
from dreamdrive.utils import checkpoint
from dreamdrive.utils.files import make_folder

STEPS = 12  # of a rollout, and of a drive
DTYPES = ("f2", "f4", "f8", "i1", "i8", "u8", "?", "c8", "U4", "S3", "M8[s]", "m8[s]", "O", "V4", "f4,f4", ">f4")
SHAPES = ((), (0,), (1,), (2,), (STEPS,), (STEPS, 1), (STEPS, 3), (0, 3), (STEPS, 96, 96, 3), (2, 2, 2, 2, 2))


def archive(members: dict[str, np.ndarray], allow: bool = True) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=allow, **members)
    return buffer.getvalue()


def changed_members(members: dict[str, np.ndarray], rng: np.random.Generator) -> bytes:
    """An archive in which a member has another type, shape or value, is missing, or lies about how long it is."""
    names = list(members)
    name, changed, way = names[rng.integers(len(names))], dict(members), rng.integers(6)
    if way == 0:
        del changed[name]
    elif way == 1:
        shape = SHAPES[rng.integers(len(SHAPES))]
        changed[name] = np.zeros(shape, DTYPES[rng.integers(len(DTYPES))])
    elif way == 2:
        with np.errstate(all="ignore"):
            dtype = DTYPES[rng.integers(9)]
            changed[name] = changed[name].astype(dtype) if dtype != "S3" else changed[name].astype(str)
    elif way == 3:
        values = changed[name].astype(np.float64)
        values.reshape(-1)[rng.integers(values.size)] = rng.choice([np.nan, np.inf, 1e300, -1e39, 1e38, 5])
        changed[name] = values
    elif way == 4:
        changed[name] = changed[name][: rng.integers(len(changed[name]) + 1)]
    content = archive(changed)
    return edited_zip(content, rng) if way == 5 else content


def edited_zip(content: bytes, rng: np.random.Generator) -> bytes:
    """The same members, one of whose own headers was changed, in a zip file whose checksums fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        victim = names[rng.integers(len(names))]
        for name in names:
            raw = bytearray(old.read(name))
            if name == victim:
                for _ in range(rng.integers(1, 4)):
                    raw[rng.integers(min(128, len(raw)))] = int(rng.integers(32, 127) if rng.random() < 0.8 else 0)
                if rng.random() < 0.2:
                    raw += bytes(1 << 22)
            new.writestr(name, bytes(raw))
    return buffer.getvalue()


class RolloutFile(Subject):
    """A rollout of ctallec/world-models, imported."""

    def __init__(self, folder: Path) -> None:
        self._folder, rng = folder, np.random.default_rng(0)
        self._members: dict[str, np.ndarray] = {
            "observations": rng.integers(0, 256, (STEPS, 64, 64, 3), dtype=np.uint8),
            "rewards": rng.random(STEPS),
            "actions": rng.random((STEPS + 3, 3)),
            "terminals": np.arange(STEPS) == STEPS - 1,
        }
        self.path = make_folder(folder / "rollouts") / "one.npz"
        self.content = archive(self._members)
        self.write(self.content)
        self._before = self._imported()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            yield "members", changed_members(self._members, rng)

    def read(self, way: str) -> Outcome:
        found = self._imported()
        if alike(found, self._before):
            return "same"
        return "silent" if way == BY_ITSELF else "other"

    def _imported(self) -> dict[str, np.ndarray]:
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        import_npz(self.path.parent, out, 0.0)
        return sound_columns(out)


def sound_columns(folder: Path) -> dict[str, np.ndarray]:
    """What is in the first episode of a dataset; RuntimeError where something is wrong with that."""
    wrong = shards.verify(folder)
    if wrong:
        raise RuntimeError(f"it was imported, and {wrong[0]}")
    e = Dataset.open(folder).episode(0)
    return {"obs": e.obs, **{name: getattr(e, name) for name in e.step_columns}}


class SequenceFile(Subject):
    """A demonstration of ncps."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self._members: dict[str, np.ndarray] = {
            "obs": rng.integers(0, 256, (32, 84, 84, 4), dtype=np.uint8),
            "actions": rng.integers(0, 4, 32),
        }
        self.path, self.content = folder / "train_0.npz", archive(self._members)
        self.write(self.content)
        self._before = self._read()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            yield "members", changed_members(self._members, rng)

    def read(self, way: str) -> Outcome:
        found = self._read()
        if alike(found, self._before):
            return "same"
        return "silent" if way == BY_ITSELF else "other"

    def _read(self) -> dict[str, np.ndarray]:
        e = read_sequence(self.path, 0, 4)
        e.check()
        return {"obs": e.obs, **{name: getattr(e, name) for name in e.step_columns}}


class ModelFile(Subject):
    """A controller of ctallec/world-models, beside V and M that are as they were."""

    def __init__(self, folder: Path) -> None:
        self._source, self._out = folder / "theirs", folder / "ours"
        self._state: dict[str, Any] = {"epoch": 3, "reward": np.float64(-812.5), "state_dict": their_controller()}
        self.path = make_folder(self._source / "ctrl") / "best.tar"
        self.content = saved(self._state)
        for stage, state in (("vae", their_vae()), ("mdrnn", their_memory())):
            make_folder(self._source / stage).joinpath("best.tar").write_bytes(saved({"state_dict": state}))
        self.write(self.content)
        self._before = self._imported()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            yield "members", self._changed(rng)

    def read(self, way: str) -> Outcome:
        if alike(self._imported(), self._before):
            return "same"
        return "silent" if way == BY_ITSELF else "other"

    def _imported(self) -> dict[str, np.ndarray]:
        shutil.rmtree(self._out, ignore_errors=True)
        import_checkpoint(self._source, self._out)
        model = checkpoint.load_parent(self._out, "ctrl")["model"]
        return {name: value.numpy() for name, value in model.items()}

    def _changed(self, rng: np.random.Generator) -> bytes:
        state = dict(self._state["state_dict"])
        name = list(state)[rng.integers(len(state))]
        others: tuple[Callable[[], Any], ...] = (
            lambda: torch.zeros(0),
            lambda: torch.tensor(1.0),
            lambda: state[name].double() * np.nan,
            lambda: state[name].to(torch.complex64),
            lambda: state[name].to_sparse(),
            lambda: state[name][:1],
            lambda: torch.zeros(1).expand(1 << 40),
            lambda: torch.zeros(1).expand(3, 1 << 30),
            lambda: 3,
            lambda: None,
            lambda: [state[name]],
            lambda: torch.quantize_per_tensor(state[name], 0.1, 0, torch.qint8),
        )
        state[name if rng.random() < 0.8 else 7] = others[rng.integers(len(others))]()
        whole: list[Any] = [{"state_dict": state}, {"state_dict": state, "x": bytearray(9)}, state, [state], 3]
        return saved(whole[min(int(rng.exponential(1.0)), 4)])


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def their_vae() -> dict[str, torch.Tensor]:
    encoder = [(3, 32), (32, 64), (64, 128), (128, 256)]
    shapes: dict[str, tuple] = {f"encoder.conv{i + 1}": (b, a, 4, 4) for i, (a, b) in enumerate(encoder)}
    shapes |= {"encoder.fc_mu": (32, 1024), "encoder.fc_logsigma": (32, 1024), "decoder.fc1": (1024, 32)}
    decoder = [(1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]
    shapes |= {f"decoder.deconv{i + 1}": (a, b, k, k) for i, (a, b, k) in enumerate(decoder)}
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    widths = {name: shape[1] if "deconv" in name else shape[0] for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.zeros(width) for name, width in widths.items()}


def their_memory() -> dict[str, torch.Tensor]:
    lstm = {"weight_ih_l0": (1024, 35), "weight_hh_l0": (1024, 256), "bias_ih_l0": (1024,), "bias_hh_l0": (1024,)}
    state = {f"rnn.{name}": torch.zeros(shape) for name, shape in lstm.items()}
    return state | {"gmm_linear.weight": torch.zeros(327, 256), "gmm_linear.bias": torch.zeros(327)}


def their_controller() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.linspace(-1, 1, 864).view(3, 288), "fc.bias": torch.ones(3)}


class MinariMain(Subject):
    """The HDF5 of a dataset of Minari's, imported."""

    def __init__(self, folder: Path) -> None:
        self._out, self._source = folder / "out", folder / "mine-v0"
        write_dataset(folder / "data", HEAD, pieces(6, 3), episode)
        export_minari(folder / "data", self._source)
        about = self._source / "data" / "metadata.json"
        said = json.loads(about.read_text())
        said.pop("dreamdrive", None)  # as one of others
        said["env_spec"] = json.dumps({"id": "CartPole-v1", "max_episode_steps": 100})
        about.write_text(json.dumps(said))
        self.path = self._source / "data" / "main_data.hdf5"
        self.content = self.path.read_bytes()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            yield "a chunk", hdf5_mutations.edited_chunk(self.content, rng, "episode_0")

    def read(self, way: str) -> Outcome:
        shutil.rmtree(self._out, ignore_errors=True)
        import_minari(self._source, self._out, Wanted(resize=64))
        sound_columns(self._out)
        return "other"


def traffic() -> dict[str, Any]:
    """A scene in Nocturne's format: two cars between two road edges, and a light."""

    def line(y: float) -> list[dict[str, float]]:
        return [{"x": float(x), "y": y} for x in range(-20, 120, 10)]

    def car(y: float) -> dict[str, Any]:
        way = [{"x": 0.5 * t, "y": y} for t in range(91)]
        return {
            "position": way,
            "heading": [0.0] * 91,
            "velocity": [{"x": 5.0, "y": 0.0}] * 91,
            "valid": [True] * 91,
            "length": 4.0,
            "width": 2.0,
            "goalPosition": way[-1],
            "type": "vehicle",
        }

    edges = {"road_edge": (-4.0, 8.0), "lane": (0.0, 4.0)}
    roads = [{"type": kind, "geometry": line(y)} for kind, places in edges.items() for y in places]
    lights = {"1": {"state": ["go", "stop"], "x": [40.0, 40.0], "y": [0.0, 0.0], "time_index": [0, 50]}}
    return {"name": "made.json", "objects": [car(0.0), car(4.0)], "roads": roads, "tl_states": lights}


class SceneFile(Subject):
    """A scene of traffic, driven in by its expert and by somebody at random."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "scenes"
        self.path = make_folder(self._folder) / "scene.json"
        self.content = json.dumps(traffic()).encode()

    def mutants(self, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
        while True:
            yield BY_ITSELF, hdf5_mutations.changed(self.content, rng)
            for _ in range(3):
                value = json.loads(self.content)
                for _ in range(rng.integers(1, 4)):
                    change_value(value, rng)
                yield "values", json.dumps(value).encode()

    def read(self, way: str) -> Outcome:
        world = envs.make("nocturne", num=1, scenes=str(self._folder))
        try:
            world.look_away()  # type: ignore[attr-defined]
            for action in (world.expert_action, lambda: world.spec.space.uniform(np.random.default_rng(0))[None]):
                world.reset([0])
                for _ in range(STEPS):
                    moved = world.step(torch.as_tensor(action()))
                    state = world.sim.local[:, : int(world.sim.present.sum())]  # type: ignore[attr-defined]
                    if not (torch.isfinite(moved.reward).all() and torch.isfinite(state).all()):
                        raise RuntimeError("it drives to numbers that are not finite")
        finally:
            world.close()
        return "other"


KINDS: dict[str, type[Subject]] = {
    "rollouts": RolloutFile,
    "demonstrations": SequenceFile,
    "models": ModelFile,
    "minari": MinariMain,
    "scenes": SceneFile,
}
