"""The copy of the code that a run keeps."""

import zipfile

from dreamdrive.utils import source
from dreamdrive.utils.source import NAME, ROOT, keep_source, kept_digest, source_digest


def test_a_run_keeps_the_code_of_now_and_that_of_before(tmp_path, monkeypatch):
    first = keep_source(tmp_path)
    content = (tmp_path / NAME).read_bytes()
    assert keep_source(tmp_path) == first == source_digest() == kept_digest(tmp_path / NAME)
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        assert archive.read("dreamdrive/trainvae.py") == (ROOT / "trainvae.py").read_bytes()
        assert {"dreamdrive/utils/look.css", "dreamdrive/web/dream.js"} <= set(archive.namelist()), "pages need these"
        assert not [name for name in archive.namelist() if "/tests/" in name or "/." in name]
    assert [path.name for path in tmp_path.iterdir()] == [NAME], "the same code is kept once"

    monkeypatch.setattr(source, "_files", lambda: [("trainvae.py", b"other")])
    source_digest.cache_clear()
    second = keep_source(tmp_path)
    source_digest.cache_clear()
    assert second != first and kept_digest(tmp_path / NAME) == second
    assert (tmp_path / f"source-{first[:12]}.zip").read_bytes() == content


def test_what_is_no_copy_of_ours_is_not_lost(tmp_path):
    (tmp_path / NAME).write_bytes(b"not a zip")
    assert kept_digest(tmp_path / NAME) is None and kept_digest(tmp_path / "nowhere") is None
    assert keep_source(tmp_path) == kept_digest(tmp_path / NAME)
    assert (tmp_path / "source-unknown.zip").read_bytes() == b"not a zip"
