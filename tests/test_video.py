"""Properties of utils/video.py."""

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.video import VideoWriter, save_png, side_by_side, strip, with_lines

RED, GREEN, BLUE = (220, 30, 30), (40, 200, 60), (30, 60, 210)


def plain(colour, h=64, w=64):
    return np.full((h, w, 3), colour, np.uint8)


def decode(path):
    """(stream information of ffmpeg, frames (T, H, W, 3))."""
    text = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    reader = imageio_ffmpeg.read_frames(path)
    w, h = next(reader)["size"]
    return text, np.stack([np.frombuffer(frame, np.uint8).reshape(h, w, 3) for frame in reader])


def record(path, frames, fps=25, scale=1):
    with VideoWriter(path, fps, scale) as video:
        for frame in frames:
            video.add(frame)
    return path


def test_a_video_is_h264_yuv420p_with_its_index_first_and_the_right_colours(tmp_path):
    frames = [plain(c) for c in (RED, GREEN, BLUE)] * 5
    text, decoded = decode(record(tmp_path / "a.mp4", frames, scale=2))
    assert "h264" in text and "yuv420p" in text and "bt709" in text and "25 fps" in text
    assert decoded.shape == (15, 128, 128, 3)
    for seen, wanted in zip(decoded, frames, strict=True):
        assert np.abs(seen.astype(int) - wanted[0, 0]).max() <= 6
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_enlarging_keeps_hard_pixel_edges_and_odd_sizes_become_even(tmp_path):
    frame = np.zeros((3, 5, 3), np.uint8)
    frame[1, 2] = 255
    _, decoded = decode(record(tmp_path / "a.mp4", [frame] * 3, scale=7))
    assert decoded.shape == (3, 22, 36, 3)
    assert decoded[1, 8:13, 15:20].min() > 200 and decoded[1, :6].max() < 50 and decoded[1, :, :12].max() < 50


def test_the_same_frames_give_the_same_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    assert record(tmp_path / "a.mp4", frames).read_bytes() == record(tmp_path / "b.mp4", frames).read_bytes()


def test_a_video_left_by_an_exception_leaves_the_old_one_and_no_litter(tmp_path):
    old = record(tmp_path / "a.mp4", [plain(RED)] * 2).read_bytes()
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25) as video:
        video.add(plain(BLUE))
        raise KeyboardInterrupt
    assert (tmp_path / "a.mp4").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("amount", ["9", ""], ids=["at once", "in the end"])
def test_ffmpeg_dying_is_one_sentence_with_its_last_line(amount, tmp_path, monkeypatch):
    fake = [
        sys.executable,
        "-c",
        f"import sys; sys.stdin.buffer.read({amount}); sys.exit('first\\nNo space left on device')",
    ]
    monkeypatch.setattr("dreamdrive.utils.video.ffmpeg_command", lambda *_: fake)
    with pytest.raises(UserError, match="No space left on device"):
        record(tmp_path / "a.mp4", [plain(RED, 512, 512)] * 20)
    assert list(tmp_path.iterdir()) == []


def test_bad_names_no_frames_and_wrong_frames_are_refused(tmp_path):
    with pytest.raises(UserError, match="ends in .mp4"):
        VideoWriter(tmp_path / "a.avi", 25)
    with pytest.raises(UserError, match="no frame was recorded"):
        record(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match="one shape"):
        record(tmp_path / "a.mp4", [plain(RED), plain(RED, 32)])
    with pytest.raises(ValueError, match="float64"):
        record(tmp_path / "a.mp4", [np.zeros((8, 8, 3))])
    assert list(tmp_path.iterdir()) == []


def test_panels_stand_side_by_side_at_one_height_whatever_their_sizes():
    captions = ["one", "two", "a caption much too long for its panel"]
    picture = side_by_side([plain(RED), plain(GREEN, 400, 600), plain(BLUE, 1, 1)], captions, height=128)
    found = [np.argwhere((picture == colour).all(2)) for colour in (RED, GREEN, BLUE)]
    assert [tuple(f.max(0) - f.min(0) + 1) for f in found] == [(128, 128), (128, 192), (128, 128)]
    assert len({f.min(0)[0] for f in found}) == 1
    assert (picture[: found[0].min(0)[0]] > 150).any(), "captions are drawn above the panels"
    with pytest.raises(ValueError, match="2 captions for 1"):
        side_by_side([plain(RED)], ["a", "b"])


def test_a_strip_has_a_row_a_sequence_also_of_unequal_lengths():
    picture = strip(
        [("real", [plain(RED)] * 4), ("a dream\nat 1.15", [plain(GREEN)] * 2), ("one", [plain(BLUE)])], height=64
    )
    for colour, count in ((RED, 4), (GREEN, 2), (BLUE, 1)):
        assert (picture == colour).all(2).sum() == count * 64 * 64


def test_png_keeps_every_pixel_and_lines_of_text_go_below(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    save_png(tmp_path / "a.png", picture)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == picture).all()
    taller = with_lines(picture, ["return 12", "more"])
    assert (taller[:40] == picture).all() and (taller[40:] > 150).any()
    with pytest.raises(UserError, match="could not be written"):
        save_png(tmp_path / "missing" / "a.png", picture)
