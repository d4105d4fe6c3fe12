"""Says what this machine has and lacks, and what to install.

Each line starts with "ok", "--" (missing, and needed only for what the line says) or "!!" (missing, and needed by the
five stages). The status is 1 if there is a "!!", else 0. torch is loaded, and OpenGL drawn, in processes of their own:
a broken driver is reported and not suffered.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

from dreamdrive.utils import display
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import parser

ROOT = Path(__file__).resolve().parent.parent
DISK_GB = 3  # what `make demo` writes, with room to spare
MEMORY_GB = 4

TORCH = """
import time, torch
print(torch.__version__, "compute threads", torch.get_num_threads(), sep="|")
def seconds(dtype):
    a, times = torch.ones(512, 512, dtype=dtype), []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return min(times)
speed = seconds(torch.float32) / seconds(torch.bfloat16)
print("cpu", f"{torch.backends.cpu.get_cpu_capability()}, bf16 at {speed:.2f} times the speed of fp32", sep="|")
for i in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(i)
    bf16 = "yes" if torch.cuda.is_bf16_supported() else "no"
    print(f"cuda:{i}", f"{p.name}, {p.total_memory / 2**30:.0f} GB, bf16 {bf16}", sep="|")
"""


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, what was looked at, what was found, and the remedy if it is not ok; `required` by the five
    stages."""

    ok: bool
    name: str
    found: str
    remedy: str = ""
    required: bool = False

    def __str__(self) -> str:
        mark = "ok" if self.ok else "!!" if self.required else "--"
        return f"{mark}  {self.name:<20} {self.found}" + (
            "" if self.ok or not self.remedy else f"\n{'':25}-> {self.remedy}"
        )


def pinned() -> bool:
    """Whether this is a clone, whose requirements.txt says which versions there should be, not an installed wheel."""
    return (ROOT / "requirements.txt").exists()


def python() -> Iterator[Finding]:
    found, have = f"{platform.python_version()}, {sys.executable}", sys.version_info[:2]
    if pinned():
        yield Finding(have == (3, 11), "Python", found, "the pins are for Python 3.11: `make setup PYTHON=...`", True)
    else:
        yield Finding(have >= (3, 11), "Python", found, "dreamdrive needs Python 3.11 or later", True)


def packages() -> Iterator[Finding]:
    """Installed versions against requirements.txt, for the tests requirements-dev.txt, and for trackers
    requirements-extra.txt; or against what a wheel says it needs."""
    if not pinned():
        yield from needed()
        return
    for file, command, purpose in (
        ("requirements.txt", "setup", ""),
        ("requirements-dev.txt", "setup", " (only for the tests)"),
        (
            "requirements-extra.txt",
            "extra",
            " (only for --ray, --track mlflow and --track wandb, Parquet, and their tests)",
        ),
    ):
        pins = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
        wrong = [
            f"{name} {have or 'is missing'} (wanted {want})" for name, want in pins if (have := installed(name)) != want
        ]
        found = ", ".join(wrong) if wrong else f"all {len(pins)} as pinned"
        yield Finding(not wrong, file, found, f"`make {command}`, or `pip install -r {file}`{purpose}", not purpose)


def needed() -> Iterator[Finding]:
    """Installed versions against the ranges that came with the wheel; extras are for those who want them."""
    from packaging.requirements import Requirement

    ranges = [Requirement(text) for text in metadata.requires("dreamdrive") or ()]
    ranges = [wanted for wanted in ranges if not wanted.marker or wanted.marker.evaluate({"extra": ""})]
    wrong = [
        f"{wanted.name} {have or 'is missing'} (wanted {wanted.specifier})"
        for wanted in ranges
        if not (have := installed(wanted.name)) or have not in wanted.specifier
    ]
    found = ", ".join(wrong) if wrong else f"all {len(ranges)} as needed"
    yield Finding(not wrong, "packages", found, "`pip install --upgrade dreamdrive`", True)


def installed(name: str) -> str | None:
    """The installed version of a package without its local part (2.13.0+cpu is 2.13.0); None if it is missing."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def torch() -> Iterator[Finding]:
    """torch and its devices."""
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=120)
    if done.returncode:
        yield Finding(False, "torch", last_line(done), "`make setup`", True)
        return
    version, *devices = [line.split("|") for line in done.stdout.splitlines()]
    yield Finding(True, "torch", ", ".join([version[0], " ".join(version[1:])]))
    for name, found in devices:
        yield Finding(True, f"  {name}", found)
    if len(devices) == 1 and shutil.which("nvidia-smi"):
        yield Finding(
            False,
            "  cuda",
            "none, though nvidia-smi is here",
            "to train on the GPU install a CUDA build of torch: https://pytorch.org",
        )


def last_line(done: subprocess.CompletedProcess) -> str:
    """Why a child failed, in a line."""
    if done.returncode < 0:
        return f"crashed by {signal.Signals(-done.returncode).name}"
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def opengl() -> Iterator[Finding]:
    """Drawing with no display, then on one (ours if there is none)."""
    egl = display.probe("egl")
    mesa = "`apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri`"
    yield Finding(egl.ok, "OpenGL by EGL", egl.detail, f"{mesa} (only for pictures drawn by OpenGL)")
    given = os.environ.get("DISPLAY")
    try:
        virtual = display.open_display().message is not None
    except UserError as error:
        yield Finding(False, "OpenGL by X", str(error), "only for windows (--render)")
        return
    x = display.probe("x")
    where = f" on a virtual screen (DISPLAY is {given or 'not set'})" if virtual else f" on DISPLAY={given}"
    yield Finding(
        x.ok, "OpenGL by X", x.detail + where, f"{mesa}, or unset DISPLAY for a virtual screen (only for --render)"
    )


def programs() -> Iterator[Finding]:
    for name, binary, package, purpose in (
        ("Xvfb", "Xvfb", "xvfb", "windows without a display"),
        ("xauth", "xauth", "xauth", "xvfb-run"),
        ("VNC server", "Xtigervnc", "tigervnc-standalone-server", "the tests, and to watch a server's windows"),
        ("VNC passwords", "tigervncpasswd", "tigervnc-tools", "to watch a server's windows"),
        ("compiler", "gcc", "gcc", "torch.compile"),
    ):
        path = shutil.which(binary)
        yield Finding(
            path is not None, name, path or f"no {binary} in PATH", f"`apt-get install {package}` (only for {purpose})"
        )


def ffmpeg() -> Iterator[Finding]:
    import imageio_ffmpeg

    binary = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run([binary, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=30)
    ok = done.returncode == 0 and "libx264" in done.stdout
    yield Finding(
        ok,
        "ffmpeg",
        binary if ok else f"{binary} cannot encode H.264",
        "`pip install imageio-ffmpeg` brings one, for the videos",
        True,
    )


def machine() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        free > DISK_GB,
        "disk",
        f"{free:.1f} GB free in {Path.cwd()}",
        f"make room: the demo needs up to {DISK_GB} GB",
        True,
    )
    memory = {
        k: int(v) / 1e6 for k, v in re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    }
    text = f"{memory['MemTotal']:.1f} GB, {memory['MemAvailable']:.1f} GB available"
    limit = memory_limit()
    available = min(memory["MemAvailable"], limit)
    yield Finding(
        available > MEMORY_GB,
        "memory",
        text + (f", limited to {limit:.1f} GB" if limit < memory["MemTotal"] else ""),
        f"below {MEMORY_GB} GB training may be killed: smaller --batch-size, fewer --threads",
    )
    yield Finding(True, "cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()} ({platform.machine()})")


def memory_limit() -> float:
    """The container's memory limit in GB; infinite if there is none."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).exists() and (text := Path(file).read_text().strip()).isdigit():
            return int(text) / 1e9
    return float("inf")


def findings(checks: tuple[Callable[[], Iterator[Finding]], ...]) -> Iterator[Finding]:
    """All that the checks find; one that fails itself becomes a finding."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            required = check in (packages, torch, ffmpeg)
            yield Finding(
                False, check.__name__, f"could not be looked at: {type(error).__name__}: {error}", required=required
            )


def main() -> int:
    parser(__doc__).parse_args()
    wrong = 0
    for finding in findings((python, packages, torch, ffmpeg, opengl, programs, machine)):
        print(finding, flush=True)
        wrong += finding.required and not finding.ok
    print(
        f"\n{wrong} of what the five stages need is missing: see !! above"
        if wrong
        else "\nAll that the five stages need is here."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
