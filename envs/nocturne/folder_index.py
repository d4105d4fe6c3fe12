"""What a folder of scenes holds: its files, and who in them can be driven. It is found once, and kept beside the files
or, where they cannot be written to, in the user's cache.

The index is a line a file, written as files are read, so that a killed command goes on where it was, each with a
checksum, so that damaged lines are made again:

    [how, name, [size, time of change], pieces, complaint]<TAB>CRC

`how` stands for the way files are read and for the warm-up; `pieces` has for every piece of the log its egos, in words
(see Pieces); `complaint` says why a file is no scene.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from dreamdrive.envs.nocturne.egos import drivable
from dreamdrive.envs.nocturne.reading import Reading
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import cache_folder, write_atomically
from dreamdrive.utils.progress import Bar
from dreamdrive.utils.words import counted

INDEX, SCHEMA = ".egos.jsonl", 3
LISTED, UNLISTED = "valid_files.json", "invalid_files.json"  # Nocturne's lists beside its scenes
EVERY = 1.0  # seconds after which what was found is written
NAMED = 3  # files that are passed over, by their names

Pieces = list[str]  # of each piece of a log its egos, e.g. "0v 3vst": id, and what it is (see egos.py)


@dataclass
class Folder:
    """What was found in a folder: by file name the egos of the pieces of its log, and why files are passed over."""

    egos: dict[str, Pieces]
    passed_over: dict[str, str]

    def tell(self, folder: Path) -> None:
        """Say what is passed over, once a command."""
        bad = self.passed_over
        if not bad or multiprocessing.parent_process() is not None or folder in _told:
            return
        _told.add(folder)
        names = "; ".join(list(bad.values())[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        print(
            f"{len(bad)} of the {counted(len(bad) + len(self.egos), 'file')} in {folder} "
            f"{'is' if len(bad) == 1 else 'are'} passed over: {names}{more}",
            file=sys.stderr,
        )


_told: set[Path] = set()


def scene_files(folder: Path) -> list[Path]:
    """The JSON files of a folder, sorted, without Nocturne's lists; of those that its list of valid files names, if it
    has one. UserError if there are none."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give --scenes one with scenes in it (`dreamdrive scenes synthetic --out "
            f"{folder}` writes some)"
        )
    files = sorted(
        path for path in folder.glob("*.json") if not path.name.startswith(".") and path.name not in (LISTED, UNLISTED)
    )
    listed = listed_files(folder)
    if listed is not None:
        files = [path for path in files if path.name in listed]
    if not files:
        which = f"that {folder / LISTED} names " if listed is not None else ""
        raise UserError(
            f"{folder} has no .json file {which}with a scene in it: give --scenes a folder with scenes in it "
            f"(`dreamdrive scenes synthetic --out {folder}` writes some)"
        )
    return files


def listed_files(folder: Path) -> dict[str, set[int]] | None:
    """Nocturne's list of the files to use, and in each the ids of vehicles that are to replay their logs; None where
    there is none. UserError for one that is damaged."""
    path = folder / LISTED
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, list):
            content = dict.fromkeys(content, [])
        return {str(name): {int(identity) for identity in ids} for name, ids in content.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no list of scenes ({str(error)[:100]}): ids of vehicles by file name were wanted; mend it or "
            "take it away"
        ) from None


def read_index(folder: Path, reading: Reading, warmup: int) -> Folder:
    """What every file of a folder holds, read the way it says, for episodes after `warmup` steps."""
    names = {path.name for path in scene_files(folder)}
    with os.scandir(folder) as entries:
        files = {e.name: _stamp(e.stat()) for e in entries if e.name in names}
    how = f"{SCHEMA}-{reading.digest(warmup)}"
    index = _Index(_places(folder))
    news = sorted(
        name for name, stamp in files.items() if (how, name) not in index.known or index.known[how, name][0] != stamp
    )
    if news:
        with index, Bar(news, desc=f"looking through {folder}", unit="scene", leave=False) as bar:
            for name in bar:
                values = [files[name], *_look(folder / name, reading, warmup)]
                index.add((how, name), values, kept=os.access(folder / name, os.R_OK))
    found = Folder({}, {})
    for name in sorted(files):
        _, pieces, complaint = index.known[how, name]
        if complaint:
            found.passed_over[name] = complaint
        else:
            found.egos[name] = pieces
    found.tell(folder)
    return found


def _look(path: Path, reading: Reading, warmup: int) -> tuple[Pieces, str]:
    """(Egos of the pieces of a file's log, the complaint if it is no scene)."""
    try:
        return [
            " ".join(f"{scene.ids[n]}{roles}" for n, roles in drivable(scene, warmup)) if scene else ""
            for scene in reading.pieces(path)
        ], ""
    except UserError as error:
        reason = str(error).partition("; give a scene in")[0]
        return [], reason.replace(str(path), path.name)


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


def _places(folder: Path) -> list[Path]:
    places = [folder / INDEX]
    if cache := cache_folder():
        places.append(cache / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}{INDEX}")
    return places


class _Index:
    """What is known of files, (how, name) -> [stamp, pieces, complaint], and the file it is added to; a context manager
    while something is."""

    def __init__(self, places: list[Path]) -> None:
        self.places = places
        self.known: dict[tuple[str, str], list] = {}
        self.spoilt = False
        self._lines: list[bytes] = []
        self._written = 0.0
        self._place: Path | None = None
        lines = 0
        for place in reversed(places):  # what is beside the files is the newest
            lines += self._read(place)
        self.spoilt |= lines > 2 * len(self.known)  # mostly what has been found anew since

    def _read(self, place: Path) -> int:
        """Add what a file has; how many lines that is. It is only a shortcut: what is damaged is not missed."""
        try:
            lines = place.read_bytes().split(b"\n")
        except OSError:
            return 0
        self.spoilt |= lines.pop() != b""  # it ends with the end of a line
        for line in lines:
            text, _, check = line.rpartition(b"\t")
            try:
                if int(check, 16) != zlib.crc32(text):
                    raise ValueError
                how, name, *values = json.loads(text)
                self.known[how, name] = values
            except (ValueError, TypeError, RecursionError):
                self.spoilt = True
        return len(lines)

    def __enter__(self) -> "_Index":
        for place in self.places:
            try:
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self.spoilt:
                    write_atomically(
                        place, b"".join(map(_line, sorted(self.known), map(self.known.get, sorted(self.known))))
                    )
                with place.open("ab"):
                    self._place = place
                return self
            except (UserError, OSError):
                continue
        return self

    def add(self, key: tuple[str, str], values: list, kept: bool = True) -> None:
        self.known[key] = values
        if kept:
            self._lines.append(_line(key, values))
        if time.monotonic() - self._written > EVERY:
            self._write()

    def _write(self) -> None:
        """Append what has been found, in one go; a disk that is full loses a shortcut, no more."""
        if self._place is not None and self._lines:
            try:
                with self._place.open("ab", buffering=0) as file:
                    file.write(b"".join(self._lines))
            except OSError:
                self._place = None
        self._lines, self._written = [], time.monotonic()

    def __exit__(self, *exception) -> None:
        self._write()


def _line(key: tuple[str, str], values: list | None) -> bytes:
    text = json.dumps([*key, *(values or ())], separators=(",", ":")).encode()
    return text + b"\t%08x\n" % zlib.crc32(text)
