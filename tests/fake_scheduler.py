"""What `sbatch`, `srun`, `scontrol`, `qsub` and the python and the ray that they start are in tests: jobs run here and
now, one after another, and what python is given is written down in $FAKE/called, and what ray is in $FAKE/nodes;
$FAKE/statuses says what scripts end with, each "SCRIPT STATUS", or "SCRIPT SIGNAL" in ranks, once, and 0 afterwards."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

FAKE = Path(os.environ["FAKE"])


def python(*words: str) -> int:
    script = next(Path(word).name for word in words if word.endswith(".py"))
    while "--ray" in words and len((FAKE / "nodes").read_text().splitlines()) < min(int(os.environ["NODES"]), 2):
        time.sleep(0.05)
    with open(FAKE / "called", "a") as file:
        print(*words, file=file)
    statuses = (FAKE / "statuses").read_text().splitlines() if (FAKE / "statuses").exists() else []
    found = next((line for line in statuses if line.split()[0] == script), None)
    if found is None:
        return 0
    statuses.remove(found)
    (FAKE / "statuses").write_text("\n".join(statuses))
    ending = found.split()[1]
    if not ending.isdigit():  # a signal to all that a step consists of, where this is torchrun
        os.kill(os.getppid(), signal.Signals[f"SIG{ending}"])
        return 1
    return int(ending)


def run(script: str, words: list[str], dependency: str | None, array: str | None, output: Path, **names: str) -> str:
    """Run a job where what it depends on has ended as it is to; its number."""
    number = str(len(list(FAKE.glob("job-*"))) + 1)
    for kind, before in (wanted.split(":") for wanted in (dependency or "").split(",") if wanted):
        ended = (FAKE / f"job-{before}").read_text()
        assert kind in ("afterok", "afterany")
        if kind == "afterok" and ended != "0":
            (FAKE / f"job-{number}").write_text("cancelled")
            return number
    first, last = map(int, array.split("-")) if array else (0, 0)
    worst = 0
    for index in range(first, last + 1):
        env = {**os.environ, names["job"]: number, names["place"]: os.getcwd()}
        if array:
            env[names["index"]] = str(index)
        asked = FAKE / f"requeue-{number}"
        while True:
            with open(output, "a") as file:
                status = subprocess.run(["bash", script, *words], env=env, cwd="/", stdout=file, stderr=file).returncode
            if not asked.exists():
                break
            asked.unlink()
        worst = max(worst, status)
    (FAKE / f"job-{number}").write_text(str(worst))
    return number


def sbatch(*words: str) -> int:
    options = list(itertools.takewhile(lambda word: word.startswith("--"), words))
    given = dict(re.fullmatch("--([a-z-]+)=?(.*)", word).groups() for word in options)
    script, *others = words[len(options) :]
    assert given["signal"] == "USR1@120" and "requeue" in given and given["kill-on-invalid-dep"] == "yes"
    output = Path(re.sub("%[Aaj]", "1", given["output"]))
    names = {"job": "SLURM_JOB_ID", "place": "SLURM_SUBMIT_DIR", "index": "SLURM_ARRAY_TASK_ID"}
    os.environ["SLURM_JOB_NODELIST"] = f"node[1-{given.get('nodes', 1)}]"
    print(run(script, others, given.get("dependency"), given.get("array"), output, **names))
    return 0


def qsub(*words: str) -> int:
    assert "-V" in words
    given = dict(zip(words, words[1:], strict=False))
    names = {"job": "PBS_JOBID", "place": "PBS_O_WORKDIR", "index": "PBS_ARRAY_INDEX"}
    dependency = given["-W"].removeprefix("depend=") if "-W" in given else None
    print(run(words[-1], [], dependency, given.get("-J"), Path(given["-o"], given["-N"]), **names))
    return 0


def srun(*words: str) -> int:
    command = list(itertools.dropwhile(lambda word: word.startswith("--"), words))
    os.execvp(command[0], command)


def ray(*words: str) -> int:
    """A node, until it is killed; the head answers."""
    with open(FAKE / "nodes", "a") as file:
        print(*words, file=file)
    given = dict(word.split("=") for word in words if "=" in word)
    with socket.create_server(("", int(given.get("--port", 0)))):
        signal.pause()
    return 1


def scontrol(word: str, number: str, nodes: str = "") -> int:
    if word == "show":
        first, last = map(int, re.findall(r"\d+", nodes))
        print(*(f"node{k}" for k in range(first, last + 1)), sep="\n")
        return 0
    if word != "requeue" or "NEVER_AGAIN" in os.environ:
        print("scontrol: error: Requested operation is presently disabled", file=sys.stderr)
        return 1
    (FAKE / f"requeue-{number}").touch()
    return 0


if __name__ == "__main__":
    sys.exit(globals()[Path(sys.argv[0]).name](*sys.argv[1:]))
