"""How many cores this process may use, which are fewer than the machine has under `taskset`, in a batch job and in a
container."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable() -> int:
    """Cores that this process may run on, within what its control groups let it compute; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(share) for share in quotas())]))


def quotas(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Cores that the control groups of this process grant it, of those that say so (cgroups 2, and 1)."""
    found = []
    for line in lines(own):
        _, kinds, place = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        inside = Path(place.lstrip("/"))
        for folder in (inside, *inside.parents):  # a container sees its own group as the root
            if not kinds:
                quota, _, period = next(iter(lines(root / folder / "cpu.max")), "max").partition(" ")
            else:
                quota = next(iter(lines(root / "cpu" / folder / "cpu.cfs_quota_us")), "-1")
                period = next(iter(lines(root / "cpu" / folder / "cpu.cfs_period_us")), "")
            if quota.isdigit() and period.isdigit() and int(period):
                found.append(int(quota) / int(period))
    return found


def lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
