"""One small dataset and run of a version, which later versions must read: tests/golden/<version>.tar.xz.

    python -m benchmarks.golden 0.3.0
    git worktree add ../before 1188186^ && python -m benchmarks.golden 0.2.0 --tree ../before

The tree's own scripts record, train and score; of V's weights all but the largest are set to 0 before M learns from its
latents, since millions of random numbers take megabytes, and what there is to be read is the same.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch
from torch import Tensor

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import make_folder
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = 2000  # of V's tensors in all that are kept
KEPT = ("manifest.json", "args.json", "*.h5", "best.tar", "checkpoint.tar", "metrics.csv", "*.json")
DATA, LOGDIR = "data", "run"
CPU = ("--device", "cpu")
COMMANDS: tuple[tuple, ...] = (
    (
        *("data/generation_script.py", "--env", "cartpole", "--rollouts", 6, "--max-steps", 20, "--threads", 1),
        *("--policy", "expert=0.5,brown=0.5", "--val-fraction", 0.25, "--rootdir", DATA),
    ),
    (
        *("trainvae.py", "--dataset", DATA, "--logdir", LOGDIR, "--latent", 8, "--batch-size", 16),
        *("--epoch-frames", 64, "--epochs", 1, *CPU),
    ),
    ("trainmdrnn.py", "--logdir", LOGDIR, "--hidden", 8, "--seq-len", 8, "--batch-size", 4, "--epochs", 1, *CPU),
    (
        *("traincontroller.py", "--logdir", LOGDIR, "--horizon", 10, "--pop-size", 4, "--n-samples", 2),
        *("--generations", 1, "--evaluate-every", 0, "--max-workers", 1, *CPU),
    ),
    (
        *("trainbc.py", "--logdir", LOGDIR, "--epochs", 1, "--evaluate-every", 1, "--n-samples", 1),
        *("--max-workers", 1, *CPU),
    ),
    ("test_controller.py", "--logdir", LOGDIR, "--controller", "bc", "--episodes", 2, "--max-workers", 1),
)


def parse_args() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("version", help="of the tree")
    p.add_argument("--tree", type=Path, default=ROOT, help="folder of the code that makes it")
    p.add_argument("--out", type=Path, default=ROOT / "tests" / "golden", help="folder of the archive")
    return p.parse_args()


def made(tree: Path, place: Path) -> None:
    """Let the scripts of `tree` make a dataset and a run in the folder `place`."""
    source = place / "source"
    make_folder(source)
    (source / "dreamdrive").symlink_to(tree)
    for command in COMMANDS:
        script, *words = map(str, command)
        done = subprocess.run(
            [sys.executable, str(tree / script), *words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"{script} of {tree} failed: {done.stderr[-1000:]}")
        if script == "trainvae.py":
            for name in ("best.tar", "checkpoint.tar"):
                thin(place / LOGDIR / "vae" / name)


def thin(path: Path) -> None:
    """Set all but the largest numbers of each large tensor of a checkpoint to 0, also in the state of its optimiser."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = [t for t in leaves(content) if t.is_floating_point() and t.numel() > WEIGHTS]
    for tensor in tensors:
        least = tensor.abs().flatten().topk(WEIGHTS // max(1, len(tensors) // 16)).values[-1]
        tensor[tensor.abs() < least] = 0
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def leaves(value: object) -> list[Tensor]:
    """All tensors in plain containers."""
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for one in inner for tensor in leaves(one)]


def packed(place: Path, target: Path) -> None:
    """What later versions are to read, as an archive that is the same each time."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    files = {path for name in (DATA, LOGDIR) for kind in KEPT for path in (place / name).rglob(kind) if path.is_file()}
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(files):
            archive.add(path, path.relative_to(place), filter=plain)


def main() -> None:
    args = parse_args()
    target = make_folder(args.out) / f"{args.version}.tar.xz"
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        made(args.tree.resolve(), Path(folder))
        packed(Path(folder), target)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    run(main)
