"""Checkpoints that are damaged or hostile: refused in one sentence, with no more memory than the file has, whatever is
wrong with them. 2,000 of every kind: `python -m benchmarks.malformed`."""

import io
import pickle
import resource
import struct
import zipfile

import pytest
import torch

from dreamdrive.benchmarks.every_kind import corpus
from dreamdrive.benchmarks.malformed import of_archive, outcome, saved, trials, zipped
from dreamdrive.data.stored import check
from dreamdrive.models.catalogue import KINDS, MEMORIES
from dreamdrive.tests.tiny_run import TINY, call, complaint, copy_run
from dreamdrive.utils import checkpoint
from dreamdrive.utils.archive import Archive, checksum
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.resumed import load_optimizer, load_scheduler

FOUND = corpus()
MUTATIONS = 100
SHARED = b"q\x01](" + b"h\x01" * 10 + b"e"  # a list of the last one, ten times


@pytest.fixture
def refusal(tmp_path):
    """Write the bytes or the content of a checkpoint, and have it refused: what is said."""

    def refused(content, stage="bc", file="best.tar"):
        source = tmp_path / "run" / stage / file
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content if isinstance(content, bytes) else saved(content))
        with pytest.raises(UserError) as error:
            checkpoint._load(source, stage, (stage,), resumed=file == "checkpoint.tar")
        assert "\n" not in str(error.value) and str(source) in str(error.value)
        return str(error.value)

    return refused


def of_kind(name, **changes):
    return {**FOUND[name][2], **changes}


def test_every_kind_is_among_them():
    names = {name.partition("/")[0] for name in FOUND}
    assert names == {*KINDS["vae"], *KINDS["mdrnn"], *MEMORIES, "linear", "state", "actor", "watcher"}


@pytest.mark.parametrize("name", FOUND)
def test_what_a_stage_writes_is_read_as_torch_reads_it(name, tmp_path):
    stage, file, content = FOUND[name]
    source = tmp_path / "run" / stage / file
    source.parent.mkdir(parents=True)
    told = {key: value for key, value in content.items() if key not in ("stage", "schema")}
    checkpoint.save(source, stage, **told)
    read = checkpoint._load(source, stage, (stage,), resumed=file == "checkpoint.tar")
    assert read.pop("digest")
    theirs = torch.load(source, weights_only=True)
    assert checksum(read) == theirs.pop("checksum") == checksum(theirs)
    plain = checkpoint._canonical(content)
    assert {key: checksum(part) for key, part in read.items()} == {key: checksum(part) for key, part in plain.items()}
    source.write_bytes(saved(theirs))  # as an earlier version wrote it
    assert checksum({k: v for k, v in checkpoint.load(source, stage).items() if k != "digest"}) == checksum(theirs)


def test_damage_and_malice_of_every_kind_are_refused_or_change_nothing(tmp_path):
    wrong: list[str] = []
    tally = trials(MUTATIONS, 1, tmp_path, shown=wrong.append)
    assert not wrong and sum(tally.values()) == MUTATIONS and tally["bytes: refused"] > 10


# The kinds of malice that a file of tensors and plain values can have


def test_moments_smaller_than_their_parameters_never_reach_an_optimizer(refusal):
    """torch's fused Adam writes beyond them."""
    state = of_kind("lstm-mixture/checkpoint.tar")["optimizer"]
    small = {
        key: {**moments, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
        for key, moments in state["state"].items()
    }
    content = of_kind("lstm-mixture/checkpoint.tar", optimizer={**state, "state": small})
    assert "moments of shape (3,)" in refusal(content, "mdrnn", "checkpoint.tar")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    told = optimizer.state_dict()
    moments = told["state"]
    swapped = {**told, "state": {0: moments[2], 1: moments[1], 2: moments[0], 3: moments[3]}}
    with pytest.raises(UserError, match=r"exp_avg 0 is \(2, 3\), not \(3, 2\)"):
        load_optimizer(optimizer, swapped)
    load_optimizer(optimizer, told)


def test_a_scheduler_is_given_nothing_that_it_has_not():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    told = scheduler.state_dict()
    for wrong in ({"step": 1}, {"patience": "x"}, {"mode": "max"}, {"best": float("nan")}, {"min_lrs": [0, 0]}):
        with pytest.raises(UserError, match="scheduler's state"):
            load_scheduler(scheduler, {**told, **wrong})
    load_scheduler(scheduler, told)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("lstm-mixture/best.tar", {"hidden": 30_000}, "hidden 30000 in its config"),
        ("lstm-mixture/best.tar", {"hidden": 16}, "model.lstm.weight_ih_l0 of shape (32, 7), wanted (64, 7)"),
        ("lstm-mixture/best.tar", {"hidden": "8"}, "has '8' as hidden"),
        ("lstm-mixture/best.tar", {"hidden": True}, "has True as hidden"),
        ("lstm-mixture/best.tar", {"reward_scale": float("nan")}, "has nan as reward_scale"),
        ("lstm-mixture/best.tar", {"what": 1}, "a config with what"),
        ("ncp-once/best.tar", {"neurons": 10**6}, "neurons 1000000"),
        ("frames-once/best.tar", {"layers": 10**9}, "layers 1000000000"),
        ("lstm-mixture-ensemble/best.tar", {"members": 10**9}, "members 1000000000"),
        ("lstm-once/best.tar", {"letters": [10**9]}, "letters 1000000000"),
        ("vq/best.tar", {"codes": 10**9}, "codes 1000000000"),
        ("mlp/0/best.tar", {"action_space": {"type": "discrete", "n": 10**9}}, "1000000000 actions"),
        ("mlp/0/best.tar", {"features": "sound"}, "sees 'sound'"),
    ],
)
def test_a_config_is_what_the_weights_are_before_anything_is_built(name, change, words, refusal):
    stage, file, content = FOUND[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert words in refusal({**content, "config": {**content["config"], **change}}, stage, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("lstm-mixture/best.tar", {"starts": {}}, "starts without h"),
        ("lstm-once/best.tar", {"starts": {"h": torch.zeros(0, 8)}}, "has no starts"),
        ("lstm-mixture/best.tar", {"best": float("nan")}, "has nan as best"),
        ("lstm-mixture/checkpoint.tar", {"best": -float("inf")}, "has -inf as best"),
        ("linear/1/best.tar", {"best": float("inf")}, "has inf as best"),
        ("linear/2/checkpoint.tar", {"scores": torch.zeros(3, 6).double()}, "scores of shape (3, 6)"),
        ("linear/3/checkpoint.tar", {"history": [{"method": "x", "return_mean": 0.0}]}, "has 'x' as history[0].method"),
        ("linear/3/checkpoint.tar", {"history": [{"method": "bc"}]}, "a history without return_mean"),
        ("actor/1/checkpoint.tar", {"learner": {}}, "no critic, slow and optimizers"),
        ("actor/0/best.tar", {"unit": 0.0}, "rewards in units of 0.0"),
        ("state/0/best.tar", {"world": {"env": "cartpole"}}, "world"),
        ("state/0/best.tar", {"parents": {"vae": 7}}, "has 7 as the digest"),
        ("gaussian/best.tar", {"datasets": [7]}, "has 7 as datasets[0]"),
    ],
)
def test_what_else_it_holds_is_of_the_stage_and_fits_the_weights(name, change, words, refusal):
    stage, file, content = FOUND[name]
    assert words in refusal({**content, **change}, stage, file)


def test_an_option_that_a_world_does_not_have_never_reaches_a_simulator(refusal):
    world = of_kind("state/0/best.tar")["world"]
    for options, words in (
        ({"xml_file": "/etc/passwd"}, "the option 'xml_file'"),
        ({"observation": "x"}, "has a world with 'x'"),
    ):
        assert words in refusal(of_kind("state/0/best.tar", world={**world, "options": options}))


def test_weights_that_are_no_numbers_are_refused_by_name_and_never_written(refusal, tmp_path):
    content = of_kind("state/0/best.tar")
    weights = {name: value.clone() for name, value in content["model"].items()}
    weights["layers.1.weight"][0, 0] = float("nan")
    assert "NaN or infinity in model.layers.1.weight" in refusal({**content, "model": weights})
    with pytest.raises(UserError, match=r"was not written, it has NaN or infinity in model\.layers\.1\.weight"):
        checkpoint.save(tmp_path / "best.tar", "bc", content["config"], weights, {})
    assert not (tmp_path / "best.tar").exists()


def repacked(content, change):
    """A checkpoint whose pickle is changed, all checksums of the zip mended."""
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    return zipped([(name, change(record) if name.endswith("data.pkl") else record) for name, record in records])


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R.", "objects other than"),
        (b"\x80\x02X" + struct.pack("<i", 2**31 - 1) + b".", "is damaged"),
(b"\x80\x02](" + b"](" + b"K\x01" * 10 + b"e" + SHARED * 12 + b"e.", "more values"),
        (b"\x80\x02]q\x01h\x01a.", "more values"),
        (b"\x80\x02" + b"](" * 3000 + b"e" * 3000 + b".", "more in each other"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "stage is None"),
        (b"\x80\x02(.", "objects other than"),
        (b"\x80\x02](}q\x01ctorch\nFloatStorage\nh\x01be.", "objects other than"),
    ],
    ids=["bytearray", "length", "shared", "itself", "deep", "memo", "mark", "build"],
)  # fmt: skip
def test_a_pickle_decides_nothing(pickled, words, refusal):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert words in refusal(repacked(of_kind("state/0/best.tar"), lambda _: pickled))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_tensors_lie_within_the_file(refusal):
    content = {"stage": "bc", "schema": 1, "x": torch.zeros(1).expand(10**6)}
    assert "does not lie within its 1 numbers" in refusal(content)
    whole = of_kind("state/0/best.tar")
    told = repacked(whole, lambda pickled: pickled.replace(b"K\x0c", b"K\x7f"))  # 12 numbers, of 3 times 4 weights
    assert "has not the 127 numbers" in refusal(told)


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_packed_record_is_not_unpacked(packed, refusal):
    bomb = zipped([("archive/data.pkl", b"\x80\x02N."), ("archive/data/0", bytes(1 << 26))], packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is compressed or encrypted" in refusal(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


def test_other_weights_with_mended_checksums_of_the_zip_are_noticed(refusal):
    content = {**of_kind("state/0/best.tar")}
    told = {**content, checkpoint.CHECKSUM: checksum(checkpoint._canonical(content))}
    weights = {name: value + 1 for name, value in content["model"].items()}
    assert "does not match its checksum" in refusal({**told, "model": weights})


def test_what_is_described_is_not_read(tmp_path):
    content = of_kind("state/0/best.tar")
    (tmp_path / "best.tar").write_bytes(saved(content))
    with open(tmp_path / "best.tar", "rb") as file:
        described = Archive(file).describe()
    check(described, "bc", resumed=False)
    assert described["model"]["layers.0.weight"].shape == (3, 4) and not torch.is_tensor(
        described["model"]["layers.0.bias"]
    )


def test_a_run_whose_parts_do_not_fit_each_other_is_refused(trained, tmp_path):
    """Each a sound checkpoint, and their digests forged."""
    run = copy_run(trained, tmp_path)
    source = checkpoint.path(run.logdir, "mdrnn")
    parents = {"vae": checkpoint.load_parent(run.logdir, "vae")["digest"]}
    content = {k: v for k, v in of_kind("lstm-mixture/best.tar").items() if k not in ("stage", "schema", "parents")}
    source.unlink()
    checkpoint.save(source, "mdrnn", parents=parents, **content)
    said = complaint(call("traincontroller", *TINY["traincontroller"], "--logdir", run.logdir))
    assert f"{source} takes 4 latents, and V and its world have 8" in said


def test_a_file_of_another_kind_is_none(refusal, tmp_path):
    for content in (b"", b"PK", bytes(100), pickle.dumps({}), saved([1, 2]), saved({"stage": ["bc"]})):
        refusal(content)
    assert of_archive and outcome(tmp_path, "bc", None) == "refused"  # a folder
