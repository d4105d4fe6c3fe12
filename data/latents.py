"""The latents of a dataset, encoded once and cached: exp_dir/latents/<first 16 digits of the shard's sha256>.h5, one
file a shard; <...>-mirror.h5 of its frames in a mirror.

A file (data/latents_file.py) names the V and the shard it was made from by digest. One that is missing, damaged or of
another V is made again, and a dataset that has grown costs only its new shards.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dreamdrive.data.episode import known_actions
from dreamdrive.data.latents_file import is_of, read_latents, sound, write_latents
from dreamdrive.data.loaders import Sequences
from dreamdrive.data.manifest import ShardEntry
from dreamdrive.data.shards import Dataset
from dreamdrive.models.world_model import Latents, Vision, joined_latents
from dreamdrive.utils import ranks
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.locks import locked
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.spaces import ActionSpace

LATENTS = "latents"  # folder of a run
BATCH = 256  # fixed: encoding in other batches differs in the last bit


def cache_latents(
    logdir: Path, vision: Vision, vae_digest: str, datasets: Sequence[Dataset], device: torch.device
) -> None:
    """Encode every frame that is not in the cache yet, and remove what another V has left there."""
    folder = make_folder(Path(logdir) / LATENTS)
    # stages 3 and 4b may run side by side: one encodes, the other waits and finds it done
    with locked(folder, None) if ranks.first() else contextlib.nullcontext():
        _complete(folder, vision, vae_digest, datasets, device)


def _complete(folder: Path, vision: Vision, vae_digest: str, datasets: Sequence[Dataset], device: torch.device) -> None:
    wanted = {_file(folder, d, s): (d, s) for d in datasets for s in d.shards}

    def missing() -> list[Path]:
        for leftover in set(folder.iterdir()) - set(wanted):
            if leftover.suffix == ".tmp" or (leftover.suffix == ".h5" and not is_of(leftover, vae_digest)):
                leftover.unlink(missing_ok=True)
        return [path for path, (_, s) in wanted.items() if _read(path, vision, vae_digest, s) is None]

    # each rank encodes its shards
    todo = {path: wanted[path] for path in ranks.of_first(missing)[ranks.number() :: ranks.count()]}
    with Bar(total=sum(s.frames for _, s in todo.values()), desc="latents", unit="frame", disable=not todo) as bar:
        for path, (dataset, entry) in todo.items():
            latents = _encode(vision, dataset, entry, device, bar)
            write_latents(path, {n: v.numpy() for n, v in latents.items()}, vae_digest, entry.sha256)
    ranks.together()


def load_sequences(logdir: Path, vision: Vision, vae_digest: str, datasets: Sequence[Dataset]) -> Sequences:
    """Latents, actions, rewards and ends of all episodes, from a cache that `cache_latents` completed."""
    folder = Path(logdir) / LATENTS
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in (*vision.stored, "action", "expert_action", "reward", "terminated")
    }
    steps, seeds, train, source = [], [], [], []
    for dataset in datasets:
        episodes = {e.index: e for e in dataset.episodes}
        for entry in dataset.shards:
            path = _file(folder, dataset, entry)
            latents = _read(path, vision, vae_digest, entry)
            if latents is None:
                raise UserError(
                    f"{path} was whole a moment ago and is not any more: run the same command again, "
                    "which makes it anew"
                )
            with dataset.open_shard(entry) as shard:
                values = {name: shard.column(name) for name in ("action", "expert_action", "reward", "terminated")}
                indices = [int(i) for i in shard.episode]
                steps += [int(t) for t in shard.length]
            for name, value in {**latents, **values}.items():
                columns[name].append(value)
            seeds += [episodes[i].seed for i in indices]
            train += [episodes[i].split == "train" for i in indices]
            source += [f"{dataset.root}/{entry.file}, episode {i}" for i in indices]
    joined = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    space = ActionSpace.from_dict(datasets[0].manifest.action_space)
    length = np.array(steps)
    step_offset = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64)
    known = torch.from_numpy(known_actions(joined["expert_action"].numpy()))
    expert = torch.zeros(len(known), space.size)
    expert[known] = space.vector(joined["expert_action"][known])
    return Sequences(
        vision,
        {name: joined[name] for name in vision.stored},
        space.vector(joined["action"]),
        expert,
        known,
        joined["reward"],
        joined["terminated"].float(),
        length,
        step_offset + np.arange(len(length)),
        step_offset,
        np.array(seeds, np.int64),
        np.array(train),
        source,
    )


def _file(folder: Path, dataset: Dataset, entry: ShardEntry) -> Path:
    return folder / f"{entry.sha256[:16]}{'-mirror' if dataset.mirror else ''}.h5"


@torch.inference_mode()
def _encode(vision: Vision, dataset: Dataset, entry: ShardEntry, device: torch.device, bar: Bar) -> Latents:
    parts = []
    with dataset.open_shard(entry) as shard:
        for start in range(0, entry.frames, BATCH):
            frames = torch.from_numpy(shard.frames(start, min(start + BATCH, entry.frames))).to(device)
            latents = vision.latents(frames)
            parts.append({name: (v.float() if v.is_floating_point() else v).cpu() for name, v in latents.items()})
            bar.update(len(frames))
    return joined_latents(parts)


def _read(path: Path, vision: Vision, vae_digest: str, entry: ShardEntry) -> dict[str, np.ndarray] | None:
    """What V stored of every frame, each (F, n), or None if the file is not what it should be; it can always be made
    again."""
    latents = read_latents(path, vae_digest, entry.sha256)
    like = {name: value.numpy() for name, value in vision.fixed(vision.prior(1, torch.Generator())).items()}
    codes = getattr(vision.config, "codes", None)
    return latents if latents is not None and sound(latents, like, entry.frames, codes) else None
