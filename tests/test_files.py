"""What the system refuses is told apart from what is damaged, whoever reads; files that have no name until they are
whole."""

import errno

import pytest

from dreamdrive.data import latents_file
from dreamdrive.data.manifest import read_manifest
from dreamdrive.data.npz import read_rollout
from dreamdrive.envs.nocturne.scene import load_scene
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import Unnamed, raise_if_unreadable

READERS = {
    "manifest.json": lambda path: read_manifest(path.parent),
    "best.tar": lambda path: checkpoint.load(path, "vae"),
    "rollout.npz": lambda path: read_rollout(path, 0),
    "latents.h5": lambda path: latents_file.is_of(path, "digest"),
    "scene.json": load_scene,
}


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EMFILE, "allow more with `ulimit -n"),
        (errno.ENFILE, "allow more with `ulimit -n"),
        (errno.EACCES, "mend its permissions"),
        (errno.EPERM, "mend its permissions"),
        (errno.EIO, "see that its disk"),
        (errno.ESTALE, "see that its disk"),
    ],
)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_the_system_refuses_is_not_called_damaged(name, number, remedy, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"something")

    def refuse(*_, **__):
        raise OSError(number, "refused")

    for opening in ("builtins.open", "io.open", "h5py.File", "zipfile.ZipFile"):
        monkeypatch.setattr(opening, refuse)
    with pytest.raises(UserError) as error:
        READERS[name](path)
    said = str(error.value)
    assert f"{name} cannot be read (" in said and remedy in said
    assert not any(word in said for word in ("damaged", "delete", "--noreload", "move it away", "restore"))


@pytest.mark.parametrize("number", [None, errno.ENOENT, errno.EISDIR, errno.EINVAL])
def test_what_a_file_may_have_caused_itself_is_left_to_its_reader(number, tmp_path):
    raise_if_unreadable(tmp_path, OSError(number, "no") if number else OSError("no HDF5 file"))
    raise_if_unreadable(tmp_path, ValueError("no number"))


def test_a_file_has_no_name_until_it_is_whole(tmp_path):
    path = tmp_path / "12:30.mp4"
    path.write_bytes(b"old")
    file = Unnamed(path)
    if not file.passed:
        pytest.skip("this filesystem knows no files without a name")
    file.place.write_bytes(b"half of it")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
    file.name()
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"half of it"
    Unnamed(path).discard()
    assert path.read_bytes() == b"half of it"
