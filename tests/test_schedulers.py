"""scripts/slurm.sh, scripts/pbs.sh and scripts/ray_slurm.sh: which commands their jobs run, in which order, and which
again."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dreamdrive.tests.tiny_run import ROOT, variables

FAKES = ("sbatch", "srun", "scontrol", "qsub", "python", "ray")
STAGES = ["generation_script.py", "generation_script.py", "trainvae.py", "trainmdrnn.py", "trainbc.py"]


@pytest.fixture
def submit(tmp_path):
    """Submits, with what is to be set, and what scripts are to end with; what python was given, and what was said."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "work").mkdir()
    for name in FAKES:
        script = tmp_path / "bin" / name
        script.write_text(f"#!{sys.executable} -SE\n" + (ROOT / "tests" / "fake_scheduler.py").read_text())
        script.chmod(0o755)

    def submitted(scheduler, statuses="", command=(), **more):
        (tmp_path / "statuses").write_text(statuses)
        paths = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "FAKE": str(tmp_path)}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / f"{scheduler}.sh"), *command],
            cwd=tmp_path / "work",
            env=variables(**paths, **{"NAME": "tiny", "PARTS": "2", "TRIES": "1", **more}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        called = tmp_path / "called"
        said = "".join(path.read_text() for path in (tmp_path / "work" / "exp_dir" / "tiny" / "jobs").iterdir())
        return called.read_text().splitlines() if called.exists() else [], said

    return submitted


def scripts(called):
    return [next(Path(word).name for word in line.split() if word.endswith(".py")) for line in called]


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_each_stage_follows_the_one_before_it(scheduler, submit):
    called, _ = submit(scheduler, VAE="--epochs 2", TRIES="2")
    second = [*STAGES, "test_controller.py"]  # of two jobs a stage, where the second has nothing to do
    assert list(dict.fromkeys(scripts(called))) == list(dict.fromkeys(second)) and len(called) == 2 * len(second)
    record, other = called[:2]
    assert f"{ROOT}/data/generation_script.py --rootdir datasets/tiny-0 --rollouts 50 --skip 0 --env" in record
    assert "--rootdir datasets/tiny-1 --rollouts 50 --skip 50" in other
    assert "trainvae.py --dataset datasets/tiny-0 datasets/tiny-1 --logdir exp_dir/tiny --epochs 2" in called[4]
    assert called[-1].endswith("test_controller.py --logdir exp_dir/tiny --controller bc --episodes 100")


def test_what_is_preempted_is_queued_again_and_goes_on(submit):
    called, said = submit("slurm", "trainvae.py 138\ntrainvae.py 143\n")
    assert scripts(called) == [*STAGES[:3], *STAGES[2:3] * 2, *STAGES[3:], "test_controller.py"]
    assert said.count("wanted back: queued again") == 2


def test_ranks_that_are_preempted_are_queued_again(submit):
    called, said = submit("slurm", "trainvae.py USR1\ntrainmdrnn.py TERM\n", RANKS="4", FROM="vae")
    assert scripts(called) == ["trainvae.py"] * 2 + ["trainmdrnn.py"] * 2 + ["trainbc.py", "test_controller.py"]
    assert said.count("wanted back: queued again") == 2


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_where_jobs_are_cancelled_the_next_one_goes_on(scheduler, submit):
    called, said = submit(scheduler, "trainmdrnn.py 138\n", NEVER_AGAIN="1", TRIES="2", FROM="mdrnn")
    assert scripts(called).count("trainmdrnn.py") == 2 and "test_controller.py" in scripts(called)
    assert scheduler == "pbs" or "the next job of the stage goes on" in said


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_nothing_follows_a_stage_that_failed(scheduler, submit):
    called, _ = submit(scheduler, "trainvae.py 1\n" * 2, TRIES="2", FROM="vae")
    assert scripts(called) == ["trainvae.py"] * 2


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_ranks_train_v_and_m_alone(scheduler, submit):
    called, _ = submit(scheduler, RANKS="4", FROM="vae", LEARNER="traincontroller.py")
    in_ranks = {
        next(Path(word).name for word in line.split() if word.endswith(".py")) for line in called if "-m" in line
    }
    assert in_ranks == {"trainvae.py", "trainmdrnn.py"} and "generation_script.py" not in scripts(called)
    assert all("--nproc-per-node 4" in line and "SIGUSR1" in line for line in called if "-m" in line)
    assert called[-1].endswith("--controller ctrl --episodes 100")


RECORDING = ("data/generation_script.py", "--env", "cartpole", "--rootdir", "datasets/tiny")


def test_a_command_is_run_beside_ray_on_all_nodes_of_a_job(submit, tmp_path):
    called, said = submit("ray_slurm", command=RECORDING, NODES="3", SLURM_CPUS_PER_TASK="8", RAY_PORT="23456")
    (line,) = called
    head, others = (tmp_path / "nodes").read_text().splitlines()
    place = line.rpartition(" --ray ")[2]
    assert line == f"{ROOT}/{' '.join(RECORDING)} --ray {place}" and place.endswith(":23456")
    assert f"--head --node-ip-address={place.partition(':')[0]} --port=23456 --include-dashboard=false" in head
    assert others.endswith(f"--address={place}") and head.startswith("start --block --num-cpus=8")
    assert "error" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", 23456))


def test_a_command_on_ray_that_is_preempted_is_queued_again_and_what_it_fails_with_is_its_jobs_status(submit, tmp_path):
    called, said = submit("ray_slurm", "generation_script.py 138\n", RECORDING, NODES="1", RAY_PORT="23457")
    assert len(called) == 2 and said.count("wanted back: queued again") == 1
    submit("ray_slurm", "generation_script.py 3\n", RECORDING, NODES="1", RAY_PORT="23458")
    assert (tmp_path / "job-2").read_text() == "3"
