"""Datasets to Minari's format and back, and those that others have made; where the package is installed, it must read
what was written, and what it has written must be read."""

import io
import json
from dataclasses import replace

import gymnasium as gym
import h5py
import numpy as np
import pytest
from PIL import Image

from dreamdrive.data.episode import Episode
from dreamdrive.data.manifest import Manifest, read_manifest
from dreamdrive.data.minari_export import box, export_minari
from dreamdrive.data.minari_file import FOLDER, MAIN, METADATA
from dreamdrive.data.minari_import import Wanted, import_minari
from dreamdrive.data.shards import Dataset, pieces, verify, write_dataset
from dreamdrive.tests.tiny_run import BOX, DISCRETE, call, complaint, contents
from dreamdrive.tests.tiny_run import write_dataset as made_up
from dreamdrive.utils.errors import UserError

ACTIONS = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 3}


def taught(i: int) -> Episode:
    """An episode of a lesson, in a place of its own."""
    rng, steps = np.random.default_rng(i), 5 + i
    action = rng.random((steps, 2), np.float32)
    none = np.zeros(steps, bool)
    expert = np.where(np.arange(steps)[:, None] % 2, action, np.float32(np.nan))
    cut, demonstration = np.arange(steps) == steps - 1, np.arange(steps) % 2 == 0
    obs = rng.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8)
    reward = rng.random(steps, np.float32)
    return Episode(obs, action, expert, reward, none, cut, i, 7 * i, i % 2, i == 2, -action, demonstration)


def lesson(folder) -> Dataset:
    options = {"scenes": "mine", "goal": True}
    manifest = Manifest("nocturne", (64, 64, 3), BOX, 0.1, 90, 3, "human,expert", 0.0, 0.2, 4, ("human", "expert"))
    manifest = replace(manifest, options=options, by_place=True, give_up=9, controller={"bc": "ab" * 32})
    write_dataset(folder, manifest, pieces(4, 3), taught)
    return Dataset.open(folder)


DATASETS = {
    "pictures and numbers": lambda folder: made_up(folder, [5, 9, 3, 20, 2]),
    "pictures and choices": lambda folder: made_up(folder, [5, 9, 3], space=DISCRETE),
    "numbers, nobody an expert": lambda folder: made_up(folder, [5, 9, 3], image=(4,), per_shard=1, expert=False),
    "a lesson, split by places": lesson,
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_dataset_comes_back_to_the_byte(kind, tmp_path):
    before = DATASETS[kind](tmp_path / "data")
    done = call("data.exchange", "export", "minari", tmp_path / "data", "--out", tmp_path / "there-v0")
    assert done.returncode == 0, done.stderr
    done = call("data.exchange", "import", "minari", tmp_path / "there-v0", "--out", tmp_path / "back")
    assert "the dataset that was exported, to the byte" in done.stdout, done.stderr
    assert contents(tmp_path / "back") == contents(tmp_path / "data") and verify(tmp_path / "back") == []
    assert Dataset.open(tmp_path / "back").digest == before.digest


def test_an_export_is_the_same_each_time(tmp_path):
    made_up(tmp_path / "data", [5, 9])
    for folder in ("one-v0", "other-v0"):
        export_minari(tmp_path / "data", tmp_path / folder)
    one, other = (contents(tmp_path / folder)[f"{FOLDER}/{MAIN}"] for folder in ("one-v0", "other-v0"))
    assert one == other


@pytest.mark.parametrize("kind", DATASETS)
def test_minari_reads_what_is_exported(kind, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    ours = DATASETS[kind](tmp_path / "data")
    export_minari(tmp_path / "data", tmp_path / "theirs" / "mine-v3")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "theirs"))
    theirs = minari.load_dataset("mine-v3")
    assert [*minari.list_local_datasets()] == ["mine-v3"]
    assert theirs.total_episodes == len(ours.episodes) and theirs.total_steps == sum(e.steps for e in ours.episodes)
    assert theirs.observation_space.shape == ours.manifest.image_shape
    about = list(theirs.storage.get_episode_metadata(range(theirs.total_episodes)))
    assert [(a["seed"], a["policy"], a["split"], a["return"]) for a in about] == [
        (e.seed, e.policy, e.split, e.score) for e in ours.episodes
    ]
    for episode, there in zip(ours.read(), theirs.iterate_episodes(), strict=True):
        assert theirs.observation_space.contains(there.observations[0])
        assert theirs.action_space.contains(there.actions[0])
        for name, column in (("obs", "observations"), ("action", "actions"), ("reward", "rewards")):
            np.testing.assert_array_equal(getattr(episode, name), getattr(there, column))
        np.testing.assert_array_equal(episode.terminated, there.terminations)
        np.testing.assert_array_equal(episode.truncated, there.truncations)
        if "expert_action" in there.infos:
            assert len(there.infos["expert_action"]) == len(there.observations)
            np.testing.assert_array_equal(episode.expert_action, there.infos["expert_action"][:-1])


# What others have made


def foreign(folder, seen, observations, actions=None, action_space=ACTIONS, **metadata):
    """A dataset as Minari writes it, of one episode for each of `observations`, which are arrays or dicts of them."""
    (folder / FOLDER).mkdir(parents=True)
    with h5py.File(folder / FOLDER / MAIN, "w") as file:
        for i, obs in enumerate(observations):
            group = file.create_group(f"episode_{i}")
            for name, values in obs.items() if isinstance(obs, dict) else [("", obs)]:
                group[f"observations/{name}" if name else "observations"] = values
            steps = len(next(iter(obs.values())) if isinstance(obs, dict) else obs) - 1
            group["actions"] = np.arange(steps) % 3 if actions is None else actions
            group["rewards"] = np.linspace(0, 1, steps)
            group["terminations"] = np.zeros(steps, bool)
            group["truncations"] = np.zeros(steps, bool)
            group.attrs["total_steps"] = steps
    said = {
        "total_episodes": len(observations),
        "observation_space": json.dumps(seen),
        "action_space": json.dumps(action_space),
        "env_spec": json.dumps({"id": "CartPole-v1", "max_episode_steps": 500}),
    }
    (folder / FOLDER / METADATA).write_text(json.dumps({k: v for k, v in (said | metadata).items() if v is not None}))
    return folder


def pixels(*shape):
    return box("uint8", list(shape), np.zeros(shape, int).tolist(), np.full(shape, 255).tolist())


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def numbers(*shape, dtype="float64"):
    return box(dtype, list(shape), np.full(shape, -np.inf).tolist(), np.full(shape, np.inf).tolist())


def test_pictures_of_others_are_imported_as_they_are(tmp_path):
    frames = [noise(6, 64, 64, 3), noise(4, 64, 64, 3)]
    foreign(tmp_path / "in", pixels(64, 64, 3), frames, jpeg_encoding=False)
    done = call("data.exchange", "import", "minari", tmp_path / "in", "--out", tmp_path / "out", "--expert")
    assert done.returncode == 0 and "2 episodes of gym:CartPole-v1" in done.stdout, done.stderr
    dataset = Dataset.open(tmp_path / "out")
    assert verify(tmp_path / "out") == [] and dataset.manifest.max_steps == 500
    assert [e.split for e in dataset.episodes] == ["train", "val"]
    for i, episode in enumerate(dataset.read()):
        np.testing.assert_array_equal(episode.obs, frames[i])
        np.testing.assert_array_equal(episode.action, episode.expert_action)
        assert episode.truncated.tolist() == [0] * (len(episode.action) - 1) + [1], "without a word it was cut"
        assert episode.seed == i


def test_jpegs_are_read_as_pillow_reads_them(tmp_path):
    pictures = np.zeros((5, 40, 64, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
    files = []
    for k, picture in enumerate([*pictures, noise(40, 64, 3)]):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="JPEG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
        assert k < 5 or len(files[k]) != len(files[0])
    folder = foreign(tmp_path / "in", pixels(40, 64, 3), [np.zeros(6)])
    with h5py.File(folder / FOLDER / MAIN, "a") as file:
        del file["episode_0/observations"]
        group = file["episode_0"]
        kept = group.create_dataset("observations", 6, h5py.vlen_dtype(np.uint8))
        for k, content in enumerate(files):
            kept[k] = content
    manifest, notes = import_minari(folder, tmp_path / "out", Wanted(resize=64))
    assert manifest.image_shape == (64, 64, 3) and "JPEG" in notes and "64x64 now" in notes
    obs = Dataset.open(tmp_path / "out").episode(0).obs
    np.testing.assert_array_equal(obs[1], 50)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of all that a description might have besides
def test_minaris_own_jpegs_and_seeds_are_read(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    frames = [noise(64, 64, 3) for _ in range(5)]
    buffer = EpisodeBuffer(
        None, 41, None, frames, [*np.array([[0.5], [0.25], [1], [0]])], [1.0] * 4, [False] * 3 + [True], [False] * 4
    )
    theirs = minari.create_dataset_from_buffers(
        "theirs-v0",
        [buffer],
        observation_space=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        action_space=gym.spaces.Box(0, 1, (1,), np.float64),
    )
    import_minari(tmp_path / "theirs-v0", tmp_path / "out", Wanted("gym:Made-up"))
    episode = Dataset.open(tmp_path / "out").episode(0)
    np.testing.assert_array_equal(episode.obs, theirs[0].observations)
    np.testing.assert_array_equal(episode.action[:, 0], [0.5, 0.25, 1.0, 0.0])
    assert episode.seed == 41 and episode.terminated.tolist() == [0, 0, 0, 1] and not episode.truncated.any()


def test_what_is_to_be_seen_of_a_dict_is_named(tmp_path):
    seen = {
        "type": "Dict",
        "subspaces": {
            "camera": {"type": "Dict", "subspaces": {"front": pixels(64, 64, 1)}},
            "speed": numbers(2),
            "mission": {"type": "Text"},
        },
    }
    parts = {"camera/front": noise(4, 64, 64, 1), "speed": np.arange(8.0).reshape(4, 2), "mission": np.zeros(4)}
    foreign(tmp_path / "in", seen, [parts], jpeg_encoding=False)
    command = ("data.exchange", "import", "minari", tmp_path / "in", "--out", tmp_path / "out")
    said = complaint(call(*command))
    assert "camera/front: Box uint8 (64, 64, 1); speed: Box float64 (2,); mission: Text" in said and "--obs" in said
    assert "--observation" in complaint(call(*command, "--observation", "mission"))
    assert not (tmp_path / "out").exists()
    assert call(*command, "--observation", "camera/front").returncode == 0
    np.testing.assert_array_equal(Dataset.open(tmp_path / "out").episode(0).obs, parts["camera/front"])
    manifest, notes = import_minari(tmp_path / "in", tmp_path / "numbers", Wanted(observation="speed"))
    assert manifest.options == {"observation": "state"} and "float32 now" in notes
    np.testing.assert_array_equal(Dataset.open(tmp_path / "numbers").episode(0).obs, parts["speed"])


def test_choices_count_from_0_here(tmp_path):
    space = {**ACTIONS, "start": 5}
    foreign(tmp_path / "in", numbers(2), [np.zeros((4, 2))], np.array([5, 7, 6]), space, env_spec=None)
    with pytest.raises(UserError, match="does not say what it was recorded in: name the world with --env"):
        import_minari(tmp_path / "in", tmp_path / "out", Wanted())
    manifest, _ = import_minari(tmp_path / "in", tmp_path / "out", Wanted("cartpole"))
    assert Dataset.open(tmp_path / "out").episode(0).action.tolist() == [0, 2, 1] and manifest.max_steps == 3


# What is refused


def nested(depth):
    return {"type": "Dict", "subspaces": {"in": nested(depth - 1)}} if depth else numbers(2)


def refusal(folder, *flags) -> str:
    """The sentence; nothing is left of the dataset that was to be."""
    out = folder.parent / "refused"
    said = complaint(call("data.exchange", "import", "minari", folder, "--out", out, *flags))
    assert not out.exists()
    return said


@pytest.mark.parametrize(
    "how, flags, said",
    [
        ({"seen": pixels(64, 64, 3)}, (), "jpeg_encoding"),
        ({"seen": {"type": "Discrete", "n": 3}}, (), "observations that are Discrete(3): a Box is wanted"),
        (
            {"seen": numbers(2), "action_space": {"type": "MultiBinary", "n": 3}},
            (),
            "cannot be used: MultiBinary, and Discrete or a Box",
        ),
        ({"seen": numbers(2), "action_space": numbers(2)}, (), "Box float64 (2,) without bounds"),
        ({"seen": numbers(2)}, ("--observation", "image"), "are Box float64 (2,): leave --observation away"),
        ({"seen": numbers(2), "action_space": numbers(2, 2)}, (), "Box float64 (2, 2), and Discrete or a Box"),
        ({"seen": numbers(2), "action_space": {"type": "Discrete"}}, (), "cannot be used: n"),
        ({"seen": numbers(2), "actions": np.array([0, 1, 3])}, (), "actions from 0 to 3, and there are 3"),
        ({"seen": numbers(2), "actions": np.zeros(3)}, (), "has actions float64 (3,)"),
        ({"seen": numbers(2), "actions": np.zeros(2, int)}, (), "one frame more than action: 4 != 2 + 1"),
        ({"seen": numbers(2)}, ("--resize", 64), "has no pictures but Box float64 (2,)"),
        ({"seen": numbers(3)}, (), "has observations (2,), and its metadata says (3,)"),
        ({"seen": numbers(2)}, ("--env", "carracin"), "did you mean carracing?"),
        ({"seen": numbers(2), "env_spec": json.dumps({"id": "evil:Env-v0"})}, (), "'evil:Env-v0', no plain id"),
        ({"seen": numbers(2), "env_spec": "[" * 100_000}, (), "cannot be imported"),
        ({"seen": numbers(2), "observation_space": None}, (), "has no observation_space"),
        ({"seen": numbers(2), "data_format": "arrow"}, (), "its data_format is 'arrow'"),
        ({"seen": numbers(2), "total_episodes": 2}, (), "episode 1: episode_1 is missing"),
        ({"seen": numbers(2), "total_episodes": 10**30}, (), "it says that it holds"),
        ({"seen": numbers(2), "dreamdrive": {"schema": 1}}, (), "does not say what dataset it was made of"),
        ({"seen": {**numbers(1), "shape": [1 << 21]}}, (), "image_shape (2097152,) is not possible"),
        ({"seen": numbers(2), "action_space": {"type": "Discrete", "n": -1}}, (), "cannot be used"),
        ({"seen": nested(30)}, (), "more than 20 others around it"),
        ({"seen": numbers(2), "dreamdrive": 7}, (), "does not say what dataset it was made of"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(how, flags, said, tmp_path):
    if said == "jpeg_encoding":
        said = "observations holds float64 (4, 2), and JPEG's are wanted"
    assert said in refusal(foreign(tmp_path / "in", how.pop("seen"), [np.zeros((4, 2))], **how), *flags)


@pytest.mark.parametrize("shape, said", [((96, 96, 3), "--resize 64"), ((3, 64, 64), "(height, width, channels)")])
def test_pictures_that_v_does_not_take_are_refused(shape, said, tmp_path):
    folder = foreign(tmp_path / "in", pixels(*shape), [noise(4, *shape)], jpeg_encoding=False)
    assert said in refusal(folder)


def external(file, folder):
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["rewards"] = np.zeros(3)
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.ExternalLink(str(folder / "other.hdf5"), "rewards")


def virtual(file, folder):
    del file["episode_0/rewards"]
    file["episode_0"].create_virtual_dataset("rewards", h5py.VirtualLayout((3,), float))


def outside(file, folder):
    (folder / "secret").write_bytes(bytes(24))
    del file["episode_0/rewards"]
    file["episode_0"].create_dataset("rewards", (3,), float, external=[(str(folder / "secret"), 0, 24)])


def absurd(file, folder):
    del file["episode_0/observations"]
    file["episode_0"].create_dataset("observations", (1 << 40, 2), np.uint8, chunks=(1024, 2), compression="gzip")


def objects(file, folder):
    del file["episode_0/observations"]
    file["episode_0/observations"] = np.array([b"text"] * 4, dtype=object)


def group(file, folder):
    del file["episode_0/rewards"]
    file["episode_0"].create_group("rewards")


def goes_on(file, folder):
    file["episode_0/terminations"][0] = True


def too_large(file, folder):
    file["episode_0/observations"][0, 0] = 1e300


def nothing(file, folder):
    for name in ("observations", "rewards"):
        shape = file[f"episode_0/{name}"].shape[1:]
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = np.zeros((0, *shape))


def not_finite(file, folder):
    file["episode_0/observations"][0, 0] = np.nan


@pytest.mark.parametrize(
    "change, said",
    [
        (external, "rewards is a link to somewhere else"),
        (virtual, "rewards is virtual"),
        (outside, "rewards is stored outside the file"),
        (absurd, "more than an episode can be"),
        (objects, "observations holds no plain numbers"),
        (group, "rewards is no dataset"),
        (goes_on, "goes on after it"),
        (not_finite, "finite numbers"),
        (too_large, "finite numbers"),
        (nothing, "0 observations and 0 rewards"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(change, said, tmp_path):
    folder = foreign(tmp_path / "in", numbers(2), [np.zeros((4, 2))])
    with h5py.File(folder / FOLDER / MAIN, "a") as file:
        change(file, tmp_path)
    assert said in refusal(folder)


@pytest.mark.parametrize("name", [MAIN, METADATA])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(name, left, tmp_path):
    made_up(tmp_path / "data", [30, 30])
    export_minari(tmp_path / "data", tmp_path / "in-v0")
    path = tmp_path / "in-v0" / FOLDER / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    assert f"{path} cannot be imported" in refusal(tmp_path / "in-v0")


def test_a_flipped_bit_does_not_pass(tmp_path):
    made_up(tmp_path / "data", [30, 30])
    export_minari(tmp_path / "data", tmp_path / "in-v0")
    path = tmp_path / "in-v0" / FOLDER / MAIN
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(30):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        done = call("data.exchange", "import", "minari", tmp_path / "in-v0", "--out", tmp_path / f"out-{trial}")
        if done.returncode == 0:  # a bit that nobody reads
            assert "to the byte" in done.stdout and contents(tmp_path / f"out-{trial}") == contents(tmp_path / "data")
        else:
            assert "cannot be imported" in complaint(done)


def test_what_was_changed_since_it_was_exported_is_told(tmp_path):
    made_up(tmp_path / "data", [5, 5])
    export_minari(tmp_path / "data", tmp_path / "in-v0")
    with h5py.File(tmp_path / "in-v0" / FOLDER / MAIN, "a") as file:
        file["episode_0/observations"][0, 0, 0] ^= 1
    _, said = import_minari(tmp_path / "in-v0", tmp_path / "out", Wanted())
    assert "shard_00000.h5 of it not the same to the byte" in said
    with h5py.File(tmp_path / "in-v0" / FOLDER / MAIN, "a") as file:
        file["episode_1/rewards"][0] += 1
    assert "episode 1 is not the one that was exported" in refusal(tmp_path / "in-v0")
    assert "leave all flags but --out away" in refusal(tmp_path / "in-v0", "--expert")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda m: m["episodes"][0].update(seed=2**70), "seed of an episode"),
        (lambda m: m["shards"][1].update(file=m["shards"][0]["file"]), "two of its shards have one name"),
        (lambda m: m["episodes"].pop(), "are not listed"),
        (lambda m: m.update(action_space={"type": "discrete", "n": 4}), "is not the one that was exported"),
        (lambda m: m.update(image_shape=[32, 32, 3]), "is not the one that was exported"),
        (lambda m: m["episodes"][1].update(seed=7), "episode 1 is not the one that was exported"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change, said, tmp_path):
    made_up(tmp_path / "data", [5, 5, 5])
    export_minari(tmp_path / "data", tmp_path / "in-v0")
    path = tmp_path / "in-v0" / FOLDER / METADATA
    there = json.loads(path.read_text())
    change(there["dreamdrive"])
    path.write_text(json.dumps(there))
    assert said in refusal(tmp_path / "in-v0")


def test_nothing_is_replaced_and_a_name_without_a_version_is_refused(tmp_path):
    made_up(tmp_path / "data", [5, 5])
    command = ("data.exchange", "export", "minari", tmp_path / "data", "--out")
    assert "give --out" in complaint(call(*command, tmp_path / "mine")) and not (tmp_path / "mine").exists()
    assert "manifest.json is missing" in complaint(call(*command[:3], tmp_path / "none", "--out", tmp_path / "x-v0"))
    export_minari(tmp_path / "data", tmp_path / "mine-v0")
    before = contents(tmp_path)
    assert "holds a dataset already" in complaint(call(*command, tmp_path / "mine-v0"))
    done = call("data.exchange", "import", "minari", tmp_path / "mine-v0", "--out", tmp_path / "data")
    assert "holds a dataset already" in complaint(done) and contents(tmp_path) == before
    assert read_manifest(tmp_path / "data").complete


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    made_up(tmp_path / "data", [5, 5])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    done = call("data.exchange", "export", "minari", tmp_path / "data", "--out", tmp_path / "mine-v0")
    assert "its disk has 0.0 MB free" in complaint(done) and not (tmp_path / "mine-v0").exists()
