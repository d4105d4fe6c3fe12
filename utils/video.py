"""Pictures and videos for people: panels side by side, strips of frames, PNG, and H.264 that browsers play. No display
is needed.

picture = side_by_side([frame, reconstruction], ["simulator", "what V sees"])
with VideoWriter(Path("drive.mp4"), fps=50) as video:
    video.add(picture)
"""

import io
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamdrive.utils import interrupts
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import Unnamed, make_folder, write_atomically

BACKGROUND = (24, 26, 30)
FOREGROUND = (226, 228, 232)
GAP = 8  # pixels between panels and around them


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib brings it, so that no font needs to be installed."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def check_frame(frame: np.ndarray) -> np.ndarray:
    """`frame` itself; ValueError unless it is uint8 (h, w, 3)."""
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a picture is uint8 (h, w, 3), not {frame.dtype} {frame.shape}")
    return frame


def people(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 (h, w, 3), or (h, w, n) of n grey ones of which the last is the newest, as a picture (h, w, 3)."""
    return frame if frame.shape[2] == 3 else np.repeat(frame[..., -1:], 3, axis=2)


def fit(frame: np.ndarray, height: int) -> Image.Image:
    """`frame`, uint8 (h, w, 3), as a picture of that height: hard pixel edges when enlarged, averaged when reduced."""
    h, w = check_frame(frame).shape[:2]
    size = (max(1, round(w * height / h)), height)
    return Image.fromarray(frame).resize(size, Image.Resampling.NEAREST if height >= h else Image.Resampling.BOX)


def line_height(size: int) -> int:
    """Pixels a line of text takes at that font size, with its leading."""
    return round(size * 1.5)


def draw_text(
    canvas: Image.Image, text: str, x: float, y: float, size: int, width: float, centred: bool = False
) -> None:
    """Draw one line in the slot of `width` pixels from (x, y); it is cut short with an ellipsis where it does not
    fit."""
    face = font(size)
    if face.getlength(text) > width:
        while text and face.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    left = x + (width - face.getlength(text)) / 2 if centred else x
    ImageDraw.Draw(canvas).text((left, y + line_height(size) / 2), text, FOREGROUND, face, anchor="lm")


def side_by_side(images: Sequence[np.ndarray], captions: Sequence[str] | None = None, height: int = 256) -> np.ndarray:
    """Panels of equal height in a row, captions above them.

    `images`: uint8 (h, w, 3) each, of any size. Returns uint8 (height + margins, W, 3).
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"one caption a picture is wanted: {len(captions)} captions for {len(images)} pictures")
    panels = [fit(image, height) for image in images]
    head = heading(tuple(captions or ()), tuple(p.width for p in panels), max(12, min(20, height // 16)))
    canvas = Image.new("RGB", (head.width, head.height + height + GAP), BACKGROUND)
    canvas.paste(head)
    x = GAP
    for panel in panels:
        canvas.paste(panel, (x, head.height))
        x += panel.width + GAP
    return np.asarray(canvas)


@lru_cache(maxsize=8)
def heading(captions: tuple[str, ...], widths: tuple[int, ...], size: int) -> Image.Image:
    """What stands above panels of those widths; kept, since the frames of a video all have the same."""
    canvas = Image.new(
        "RGB", (GAP + sum(w + GAP for w in widths), GAP + (line_height(size) if captions else 0)), BACKGROUND
    )
    x = GAP
    for caption, width in zip(captions, widths, strict=False):
        draw_text(canvas, caption, x, GAP / 2, size, width, centred=True)
        x += width + GAP
    return canvas


def strip(rows: Sequence[tuple[str, Sequence[np.ndarray]]], height: int = 96) -> np.ndarray:
    """Sequences above one another, time to the right, each row's caption at its left.

    `rows`: (caption, frames uint8 (h, w, 3) each). Returns uint8 (H, W, 3).
    """
    size, gap = 14, 2
    pictures = [[fit(frame, height) for frame in frames] for _, frames in rows]
    left = 2 * GAP + round(max(font(size).getlength(line) for caption, _ in rows for line in caption.split("\n")))
    width = left + max(sum(p.width + gap for p in row) for row in pictures) - gap + GAP
    canvas = Image.new("RGB", (width, GAP + len(rows) * (height + GAP)), BACKGROUND)
    for number, ((caption, _), row) in enumerate(zip(rows, pictures, strict=True)):
        y = GAP + number * (height + GAP)
        lines = caption.split("\n")
        for i, line in enumerate(lines):
            draw_text(
                canvas,
                line,
                GAP,
                y + (height - len(lines) * line_height(size)) / 2 + i * line_height(size),
                size,
                left - GAP,
            )
        x = left
        for picture in row:
            canvas.paste(picture, (x, y))
            x += picture.width + gap
    return np.asarray(canvas)


def representatives(frames: np.ndarray, count: int) -> list[int]:
    """Places of `count` frames of (N, ...) of any kind that stand for all of them: each is the one that brings the
    frames nearest to what was chosen, so that no two are alike, and few are of what hardly ever is seen."""
    points = frames.reshape(len(frames), -1).astype(np.float32)
    squares = (points**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))  # (N, N)
    nearest, chosen = apart.max(1), list[int]()
    for _ in range(min(count, len(points))):
        gain = np.maximum(nearest[:, None] - apart, 0).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        nearest = np.minimum(nearest, apart[:, chosen[-1]])
    return chosen


def with_lines(picture: np.ndarray, lines: Sequence[str], size: int = 16, width: int = 0) -> np.ndarray:
    """`picture`, uint8 (h, w, 3), with lines of text below it; in the middle of `width` pixels where it is narrower."""
    picture = in_the_middle(picture, width)
    h, w = picture.shape[:2]
    canvas = Image.new("RGB", (w, h + len(lines) * line_height(size) + GAP), BACKGROUND)
    canvas.paste(Image.fromarray(picture))
    for i, line in enumerate(lines):
        draw_text(canvas, line, GAP, h + i * line_height(size), size, w - 2 * GAP)
    return np.asarray(canvas)


def in_the_middle(picture: np.ndarray, width: int) -> np.ndarray:
    """`picture`, uint8 (h, w, 3), in the middle of `width` pixels where it is narrower."""
    room = max(0, width - check_frame(picture).shape[1])
    if not room:
        return picture
    canvas = np.full((picture.shape[0], picture.shape[1] + room, 3), BACKGROUND, np.uint8)
    canvas[:, room // 2 : room // 2 + picture.shape[1]] = picture
    return canvas


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (h, w, 3) as a PNG, all of it or nothing."""
    content = io.BytesIO()
    Image.fromarray(check_frame(picture)).save(content, "png")
    write_atomically(path, content.getvalue())


def ffmpeg_command(width: int, height: int, fps: float, scale: int, path: Path) -> list[str]:
    """Reads rgb24 on stdin; writes what every browser plays: H.264, yuv420p, even sizes, the index first, colours
    tagged."""
    import imageio_ffmpeg

    even = f"scale={width * scale}:{height * scale}:flags=neighbor,pad=ceil(iw/2)*2:ceil(ih/2)*2"
    yuv = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p"
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    # One thread and bit-exact: the same frames give the same file on every machine.
    return [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{fps:g}",
        "-i",
        "pipe:0",
        "-an",
        "-vf",
        f"{even},{yuv}",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "18",
        *tags,
        "-threads",
        "1",
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
        f"file:{path}",  # a colon in its name says nothing of a protocol
    ]


class Gif(NamedTuple):
    """A moving GIF: its file's content, and its size in pixels."""

    content: bytes
    width: int
    height: int


def as_gif(path: Path, seconds: float = 20, fps: float = 10, width: int = 480) -> Gif:
    """A film's first seconds as a GIF, at most so wide, for what plays no H.264. UserError where it cannot be read."""
    small = f"fps={fps:g},scale='min({width},iw)':-2:flags=area,split[a][b];[a]palettegen[p];[b][p]paletteuse"
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-t", f"{seconds:g}", "-i", str(path)]
    done = subprocess.run([*command, "-vf", small, "-f", "gif", "pipe:1"], capture_output=True)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{path} cannot be read as a film ({said[-1].strip()}): make it again")
    return Gif(done.stdout, *Image.open(io.BytesIO(done.stdout)).size)


class VideoWriter:
    """Writes frames, uint8 (H, W, 3) and all of one size, to an mp4; under `path` there is the whole video or what was
    there before.

    `scale` enlarges each pixel to a square of scale x scale. Leaving the `with` block by an exception throws the video
    away.
    """

    def __init__(self, path: Path, fps: float, scale: int = 1):
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise UserError(
                f'the video "{path}" must have a name that ends in .mp4, because H.264 in mp4 is what is written'
            )
        self.fps, self.scale = fps, scale
        self.shape: tuple[int, ...] | None = None
        self.process: subprocess.Popen | None = None
        make_folder(self.path.parent)
        self.unnamed = Unnamed(self.path)
        self.log = tempfile.TemporaryFile()

    def __enter__(self) -> "VideoWriter":
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame."""
        frame = check_frame(frame)
        if self.process is None:
            self.shape = frame.shape
            command = ffmpeg_command(frame.shape[1], frame.shape[0], self.fps, self.scale, self.unnamed.place)
            with interrupts.shielded():
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=self.log,
                    pass_fds=self.unnamed.passed,
                    start_new_session=True,  # Ctrl-C in the terminal is for us to answer, not for ffmpeg
                )
        if frame.shape != self.shape:
            raise ValueError(f"all frames of a video have one shape: {frame.shape} after {self.shape}")
        try:
            assert self.process.stdin is not None, "it was asked for"
            self.process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self.fail()

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self.process is None:
            self.discard()
            raise UserError(f"no frame was recorded, so {self.path} was not written: let at least one step run")
        try:
            assert self.process.stdin is not None, "it was asked for"
            self.process.stdin.close()
        except BrokenPipeError:
            self.fail()
        if self.process.wait() != 0:
            self.fail()
        self.log.close()
        self.unnamed.name()

    def fail(self) -> None:
        """ffmpeg ended early: say why."""
        status = self.process.wait() if self.process else None
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines() or [f"status {status}"]
        self.discard()
        raise UserError(
            f"ffmpeg could not write {self.path} ({lines[-1].strip()}): see that the disk has space, then run the same "
            "command again"
        )

    def discard(self) -> None:
        """Throw away what has been written."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.log.close()
        self.unnamed.discard()

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
