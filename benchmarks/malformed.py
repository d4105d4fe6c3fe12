"""Checkpoints that were damaged, or made by somebody with bad intentions, of every kind: each is refused in one
sentence, or says what it said before, or works.

    python -m benchmarks.malformed --mutations 2000

Three sorts of changes are made, drawn with --seed: of the file's bytes (bits, cuts, insertions), of the pickle and the
zip directory with all checksums of the zip mended, and of what is stored, saved again by torch.save: without our own
checksum, as files of earlier versions have none, so that what is told wrongly must be seen by what a checkpoint may
hold. Every file is loaded, and what was accepted is used: models see something, optimizers take their state and a step,
searches ask and tell.

A fault is a traceback, a number that is not finite, other content of a changed file that has a checksum, a crash, or
memory of more than a few times the file. The process has a limit on its memory.
"""

import io
import math
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch

from dreamdrive.benchmarks.every_kind import corpus, searched, stepped
from dreamdrive.learning.actor_critic import ActorCritic, How
from dreamdrive.learning.fitting import adam
from dreamdrive.models.actor import Critic
from dreamdrive.models.catalogue import KINDS
from dreamdrive.models.cloning import averaged
from dreamdrive.models.heads import make_head
from dreamdrive.models.world_model import build
from dreamdrive.utils import checkpoint, runs, stages
from dreamdrive.utils.archive import checksum
from dreamdrive.utils.argument_types import natural, positive
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.resumed import load_optimizer, load_scheduler, load_weights
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

SPARE = 1 << 30  # bytes of memory that a process may take beside what it begins with

# Changes of bytes


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """A bit, a run of bytes, a cut, or something put in."""
    changed, at = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(6)
    if kind < 3:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        changed[at : at + rng.randint(1, 64)] = rng.randbytes(rng.randint(0, 64))
    elif kind == 4:
        del changed[at:]
    else:
        changed[at:at] = rng.randbytes(rng.randint(1, 64))
    return bytes(changed)


def of_archive(content: bytes, rng: random.Random) -> bytes:
    """An aimed edit of the zip file, its checksums mended."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(records))
    kind = rng.choice(
        ["pickle"] * 6 + ["lost", "twice", "renamed", "longer", "shorter", "packed", "bomb", "directory", "order"]
    )
    if kind == "pickle":
        at = next(i for i, (name, _) in enumerate(records) if name.endswith("data.pkl"))
        records[at] = (records[at][0], of_pickle(records[at][1], rng))
    elif kind == "lost":
        del records[at]
    elif kind == "twice":
        records.append(records[at])
    elif kind == "renamed":
        records[at] = (
            rng.choice([records[at][0].upper(), "../x", "/etc/x", "a/b/" + records[at][0], "x"]),
            records[at][1],
        )
    elif kind in ("longer", "shorter"):
        records[at] = (records[at][0], records[at][1] + b"\0" * 8 if kind == "longer" else records[at][1][:-1])
    elif kind == "bomb":
        records[at] = (records[at][0], bytes(1 << 26))
    elif kind == "order":
        rng.shuffle(records)
    packed = zipfile.ZIP_DEFLATED if kind in ("packed", "bomb") else zipfile.ZIP_STORED
    made = zipped(records, packed)
    if kind == "directory":  # sizes and places that are told
        where = made.rindex(b"PK\5\6") if rng.random() < 0.3 else made.rindex(b"PK\1\2")
        at = where + rng.randrange(4, 22 if made[where + 2] == 5 else 46)
        wrong = bytearray(made)
        wrong[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        made = bytes(wrong)
    return made


def zipped(records: list[tuple[str, bytes]], packed: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, record in records:
            archive.writestr(name, record)
    return buffer.getvalue()


def of_pickle(pickled: bytes, rng: random.Random) -> bytes:
    """An edit of the pickle, most of them of an operation or its argument."""
    operations = [(op, argument, at or 0) for op, argument, at in pickletools.genops(pickled)]
    op, _, at = rng.choice(operations)
    end = next((there for _, _, there in operations if there > at), len(pickled))
    kind = rng.randrange(8)
    if kind == 0:  # an argument
        made = op.code.encode("latin-1") + bytes(rng.randrange(256) for _ in range(end - at - 1))
    elif kind == 1:  # left out, or done twice
        made = pickled[at:end] * rng.choice([0, 2])
    elif kind == 2:  # other operations
        made = rng.choice([b"N", b"}", b"]", b")", b"(", b"t", b"R", b"b", b"Q", b"u", b"a", b"0", b"1", b"2", b"."])
    elif kind == 3:  # much memory
        big = struct.pack("<i", 2_000_000_000)
        made = rng.choice(
            [
                b"c__builtin__\nbytearray\nJ" + big + b"\x85R",
                b"X" + big,
                b"r" + big,
                b"J" + big,
                b"\x8a\xff" + b"\x7f" * 255,
            ]
        )
    elif kind == 4:  # billions of values
        made = b"](](" + b"K\x01" * 10 + b"e" + (b"q\xfa](" + b"h\xfa" * 10 + b"e") * 12 + b"e"
    elif kind == 5:  # something that runs
        made = rng.choice(
            [
                b"cos\nsystem\nX\x04\x00\x00\x00true\x85R",
                b"cbuiltins\neval\n",
                b"ctorch\nload\n",
                b"ccollections\nCounter\n)R",
            ]
        )
    elif kind == 6:  # a number
        made = rng.choice(
            [b"G" + struct.pack(">d", x) for x in (math.nan, math.inf, -1e308, 0.0, 1e-320)]
            + [b"J\xff\xff\xff\xff", b"K\x00"]
        )
    else:
        changed = bytearray(pickled)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    return pickled[:at] + made + pickled[end:]


# Changes of what is stored


WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 30_000, 10**12, 2**63, -(10**30), 0.0, -1.0, 1e300, math.nan, math.inf, -math.inf),
    *("", "x", "x" * 9999, [], {}, (), [1] * 3, {"a": 1}, [[1]]),
    *({"type": "box", "low": [math.nan], "high": [1.0]}, {"type": "discrete", "n": 10**9}),
    *(torch.zeros(3), torch.zeros(()), torch.zeros(0), torch.tensor(math.nan), torch.zeros(2, 2, dtype=torch.int64)),
)  # fmt: skip


def of_content(content: dict, rng: random.Random) -> dict:
    """The content with one thing changed, somewhere in it; what is in it most, weights, no more often than the rest."""
    changed = copied(content)
    place, key = changed, rng.choice(list(changed))
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    value, kind = place[key], rng.randrange(8)
    if isinstance(value, torch.Tensor) and kind < 5:
        place[key] = of_tensor(value, rng)
    elif kind == 5:
        del place[key]
    elif kind == 6 and isinstance(place, dict):
        place[rng.choice(["extra", "step", "__class__", 7])] = rng.choice(WRONG)
    elif type(value) in (int, float) and kind < 3:
        place[key] = rng.choice(
            [
                value * 2,
                -value,
                value + 1,
                type(value)(value * 1000),
                float(value),
                int(value) if math.isfinite(value) else 0,
            ]
        )
    else:
        place[key] = rng.choice(WRONG)
    return changed


def of_tensor(value: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor of another shape or dtype, or with other numbers."""
    flat = value.clone().reshape(-1)
    if flat.is_floating_point() and len(flat) and rng.random() < 0.5:
        flat[rng.randrange(len(flat))] = rng.choice([math.nan, math.inf, -math.inf, 3e38])
        return flat.view(value.shape)
    return rng.choice(
        [
            *(flat[:-1], flat[None], flat.double(), flat.to(torch.int32), flat.to(torch.bool), torch.zeros(3)),
            *(value.to(torch.complex64), value.reshape(*value.shape, 1)),
            value.transpose(0, -1) if value.ndim > 1 else flat[:0],
            *(torch.zeros(()).expand(value.shape), torch.cat([flat, flat])),
            torch.full_like(value, rng.choice([-1, 1, 100])) if value.dtype != torch.bool else ~value,
        ]
    )  # fmt: skip


def copied(value: Any) -> Any:
    """The same, with containers of its own that can be changed."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if type(value) is list else value


# What comes of them


def use(stage: str, content: dict) -> None:
    """Do with a checkpoint what its stage does; ValueError where numbers come out that are not finite."""
    if stage in KINDS:
        model = build(stage, content["config"], content.get("kind"))
        model.load_state_dict(content["model"])
        if "optimizer" in content:
            optimizer = adam(model, 1e-3, 0.1 if stage == "mdrnn" else 0.0)
            load_optimizer(optimizer, content["optimizer"])
            stepped(list(model.parameters()), optimizer)
            load_scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), {**content["scheduler"]})
        return
    head = make_head(content["config"])
    head.load_state_dict(content["model"])
    learner = content.get("learner") or content.get("ditto") or {}
    if "critic" in learner:
        critic = Critic.beside(head.config) if "learner" in content else Critic(4, 8, 128, 2, normalised=False)
        trained = ActorCritic(head, critic, How())
        trained.load_state_dict(learner)
        for optimizer in trained.optimizers:
            stepped(optimizer.param_groups[0]["params"], optimizer)
    if content.get("average") is not None:
        load_weights(averaged(head, 9), content["average"])
    if "search" in content and stage == "ctrl":
        search = searched(content["start"])
        search.load(content["search"], content["scores"])
        search.tell(search.ask(), torch.arange(6.0))


def outcome(source: Path, stage: str, wanted: str | None) -> str:
    """What becomes of a file; `wanted`: the checksum of what it must say, where it has one."""
    kinds = (stages.kind_of(stage),)
    try:
        content = checkpoint._load(source, stage, kinds, resumed=source.name == "checkpoint.tar")
        del content["digest"]
        if wanted is not None:
            return "the same" if checksum(content) == wanted else "SILENT: other content"
        use(stage, content)
    except UserError as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 1200 else f"UNREADABLE: {error}"
    except MemoryError:
        return "MEMORY"
    except Exception as error:
        return f"TRACEBACK: {type(error).__name__}: {str(error)[:200]}"
    return "works"


def changed(content: dict, rng: random.Random) -> tuple[str, bytes, str | None]:
    """What sort of change, the file's bytes, and the checksum that its content must have."""
    sort = rng.choice(["bytes", "archive", "content", "content", "content with a checksum"])
    told = checksum(checkpoint._canonical(content))
    if sort in ("bytes", "archive"):
        whole = saved({**content, checkpoint.CHECKSUM: told})
        return sort, (of_bytes if sort == "bytes" else of_archive)(whole, rng), told
    made = of_content(content, rng)
    if sort == "content":
        return sort, saved(made), None
    return sort, saved({**made, checkpoint.CHECKSUM: told}), told


def saved(content: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint._canonical(content), buffer)
    return buffer.getvalue()


def trials(mutations: int, seed: int, folder: Path, only: str = "", shown: Callable[[str], None] = print) -> Counter:
    """Make so many changed files, of all kinds in turn; how many came to what. What is wrong is `shown`."""
    found = {name: entry for name, entry in {**corpus(), **shipped()}.items() if only in name}
    names, tally = list(found), Counter[str]()
    for number in range(mutations):
        rng = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        stage, file, content = found[name]
        sort, written, told = changed(content, rng)
        source = folder / "run" / stage / file
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(written)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        came = outcome(source, stage, told)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if more > 8 * len(written) + (1 << 26):
            came = f"MEMORY: {more >> 20} MB for a file of {len(written) >> 10} kB ({came})"
        tally[f"{sort}: {came.partition(':')[0]}"] += 1
        if came[:2].isupper():
            shown(f"{number} {name} {sort}: {came[:300]}")
    return tally


def every_bit(name: str, folder: Path, shown: Callable[[str], None] = print) -> Counter:
    """Flip each bit of a checkpoint in turn; what came of them."""
    stage, file, content = {**corpus(), **shipped()}[name]
    told = checksum(checkpoint._canonical(content))
    whole, tally = saved({**content, checkpoint.CHECKSUM: told}), Counter[str]()
    source = folder / "run" / stage / file
    source.parent.mkdir(parents=True, exist_ok=True)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        source.write_bytes(flipped)
        came = outcome(source, stage, told)
        tally[f"bit: {came.partition(':')[0]}"] += 1
        if came[:2].isupper():
            shown(f"{name} bit {bit}: {came[:300]}")
    return tally


def shipped() -> dict[str, tuple[str, str, dict]]:
    """The small ones of those that came with dreamdrive, which have no checksum of their own."""
    found = {}
    for name in runs.shipped():
        for path in sorted((runs.SHIPPED / name).glob("*/best.tar")):
            if path.stat().st_size < 4_000_000:
                content = checkpoint.load(path, path.parent.name)
                del content["digest"]
                found[f"{name}/{path.parent.name}/best.tar"] = (path.parent.name, "best.tar", content)
    return found


def limit_memory(spare: int = SPARE) -> None:
    """This process may take so many bytes more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    taken = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (taken, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--mutations", type=positive, default=2000, help="files to make and load")
    p.add_argument("--seed", type=natural, default=0, help="decides every change")
    p.add_argument("--only", default="", help="kinds with this in their names, e.g. tokens-once")
    p.add_argument("--bits", metavar="NAME", help="flip each bit of this checkpoint instead, e.g. state/0/best.tar")
    args = p.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trials(1, 0, Path(folder))  # what is imported at the first one is no fault's memory
        limit_memory()
        place = Path(folder)
        tally = every_bit(args.bits, place) if args.bits else trials(args.mutations, args.seed, place, args.only)
    for name, count in sorted(tally.items()):
        print(f"{count:6d}  {name}")
    faults = sum(count for name, count in tally.items() if name.partition(": ")[2][:2].isupper())
    print(f"{sum(tally.values())} files, {faults} faults, {time.monotonic() - began:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    run(main)
