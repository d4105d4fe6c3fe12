"""Files of HDF5 changed at random and on purpose, with all their checksums made to fit: what a stranger could send.

Format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (version 3): every block of metadata that
libver="latest" writes begins with four letters and ends with Jenkins' lookup3 of what is before.
"""

import io
import zlib
from collections.abc import Callable, Iterator

import h5py
import numpy as np

BLOCKS = (b"OHDR", b"OCHK", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EASB", b"EADB", b"FRHP")
SUPERBLOCK = (b"\x89HDF\r\n\x1a\n", 48)  # how it begins, bytes in all
LONGEST = 700  # bytes of a block that is looked for
BOMB = 64 << 20  # bytes


def lookup3(data: bytes) -> int:
    """Jenkins' hash of some bytes, as HDF5 has it (H5_checksum_lookup3): 32 bits."""
    mask = 0xFFFFFFFF

    def turn(x: int, n: int) -> int:
        return ((x << n) | (x >> (32 - n))) & mask

    length = len(data)
    a = b = c = (0xDEADBEEF + length) & mask
    at = 0
    while length - at > 12:
        a, b, c = (
            (x + int.from_bytes(data[at + i : at + i + 4], "little")) & mask for x, i in ((a, 0), (b, 4), (c, 8))
        )
        a, c = (a - c & mask) ^ turn(c, 4), c + b & mask
        b, a = (b - a & mask) ^ turn(a, 6), a + c & mask
        c, b = (c - b & mask) ^ turn(b, 8), b + a & mask
        a, c = (a - c & mask) ^ turn(c, 16), c + b & mask
        b, a = (b - a & mask) ^ turn(a, 19), a + c & mask
        c, b = (c - b & mask) ^ turn(b, 4), b + a & mask
        at += 12
    if at == length:
        return c
    tail = data[at:].ljust(12, b"\0")
    a, b, c = ((x + int.from_bytes(tail[i : i + 4], "little")) & mask for x, i in ((a, 0), (b, 4), (c, 8)))
    for x, y, n in (
        ("c", "b", 14),
        ("a", "c", 11),
        ("b", "a", 25),
        ("c", "b", 16),
        ("a", "c", 4),
        ("b", "a", 14),
        ("c", "b", 24),
    ):
        of = {"a": a, "b": b, "c": c}
        of[x] = (of[x] ^ of[y]) - turn(of[y], n) & mask
        a, b, c = of["a"], of["b"], of["c"]
    return c


def fletcher32(data: bytes) -> bytes:
    """HDF5's checksum of a chunk (H5_checksum_fletcher32), as it stands behind it."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    low = high = 0
    for start in range(0, len(words), 360):
        sums = np.cumsum(words[start : start + 360])
        high += int(low * len(sums) + sums.sum())
        low += int(sums[-1])
        low, high = (low & 0xFFFF) + (low >> 16), (high & 0xFFFF) + (high >> 16)
        high = (high & 0xFFFF) + (high >> 16)
    low, high = (low & 0xFFFF) + (low >> 16), (high & 0xFFFF) + (high >> 16)
    return ((high << 16) | low).to_bytes(4, "little")


def blocks(content: bytes) -> list[tuple[int, int]]:
    """Where the blocks of metadata begin, and where the four bytes of their checksums do."""
    begin, size = SUPERBLOCK
    found = [(content.index(begin), size - 4)]
    for letters in BLOCKS:
        at = content.find(letters)
        while at >= 0:
            for end in range(at + 6, min(at + LONGEST, len(content) - 4)):
                if lookup3(content[at:end]).to_bytes(4, "little") == content[end : end + 4]:
                    found.append((at, end))
                    break
            at = content.find(letters, at + 4)
    return found


def edited_metadata(content: bytes, found: list[tuple[int, int]], rng: np.random.Generator) -> bytes:
    """One to three bytes of a block changed, its checksum made to fit."""
    begin, end = found[rng.integers(len(found))]
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(begin + 4, end))
        changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ (1 << int(rng.integers(8)))]))
    changed[end : end + 4] = lookup3(bytes(changed[begin:end])).to_bytes(4, "little")
    return bytes(changed)


def edited_chunk(content: bytes, rng: np.random.Generator, group: str = "/") -> bytes:
    """One chunk of a member of a group with other bytes in it, of another length, without its filters, or a bomb; its
    checksum mostly fits."""
    with edited(content) as (file, done):
        members = [file[group][name] for name in sorted(file[group])]
        plain = [member for member in members if isinstance(member, h5py.Dataset) and member.chunks]
        dataset = plain[rng.integers(len(plain))]
        number = int(rng.integers(-(-len(dataset) // dataset.chunks[0])))
        start = (number * dataset.chunks[0], *(0,) * (dataset.ndim - 1))
        old = bytes(dataset.id.read_direct_chunk(start)[1])
        way = WAYS[rng.integers(len(WAYS))]
        raw = way(old[:-4], rng)
        raw = raw + fletcher32(raw) if rng.random() < 0.8 and len(raw) else raw or b"x"
        dataset.id.write_direct_chunk(start, raw, int(rng.choice([0, 0, 0, 1, 2, 3])))
        return done()


def edited_values(content: bytes, rng: np.random.Generator) -> bytes:
    """A few values of a member replaced by others of its type, among them the worst there are."""
    with edited(content) as (file, done):
        names = sorted(file)
        dataset = file[names[rng.integers(len(names))]]
        values = dataset[()]
        if values.dtype.kind == "f":
            worst: list = [np.nan, np.inf, -np.inf, 3e38, -1.0, 0.0, 1e-45]
        else:
            info = np.iinfo(values.dtype)
            worst = [info.min, info.max, 0, 1, 2, info.max // 2]
        for _ in range(rng.integers(1, 4)):
            values.reshape(-1)[rng.integers(values.size)] = worst[rng.integers(len(worst))]
        dataset[()] = values
        return done()


class edited:
    """A file in memory, open to be changed, and what gives its bytes when that is done."""

    def __init__(self, content: bytes) -> None:
        self._buffer = io.BytesIO(content)

    def __enter__(self) -> tuple[h5py.File, Callable[[], bytes]]:
        self._file = h5py.File(self._buffer, "r+", libver="latest")
        return self._file, self._done

    def _done(self) -> bytes:
        self._file.close()
        return self._buffer.getvalue()

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _other_bytes(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.integers(1, 8)):
        changed[rng.integers(len(changed))] = int(rng.integers(256))
    return bytes(changed)


def _packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


WAYS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _other_bytes,
    lambda raw, rng: raw[: rng.integers(len(raw))],
    lambda raw, rng: raw + rng.bytes(int(rng.integers(1, 64))),
    lambda raw, rng: rng.bytes(int(rng.integers(0, 12))),
    lambda raw, rng: _packed(int(rng.integers(0, 1 << 17))),
    lambda raw, rng: _packed(BOMB) if rng.random() < 0.05 else _packed(1 << 20),
)


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A bit, some bytes, or the end of a file changed, as it happens by itself."""
    way = rng.integers(6)
    if way == 0:
        return content[: rng.integers(len(content))]
    if way == 1:
        return content + rng.bytes(int(rng.integers(1, 100)))
    other = bytearray(content)
    for _ in range(1 if way < 5 else rng.integers(2, 20)):
        other[rng.integers(len(other))] ^= 1 << int(rng.integers(8))
    return bytes(other)


def mutants(content: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Without end: how, and what a file has become."""
    found = blocks(content)
    while True:
        yield "at random", changed(content, rng)
        yield "metadata", edited_metadata(content, found, rng)
        yield "a chunk", edited_chunk(content, rng)
        yield "metadata", edited_metadata(content, found, rng)
        yield "values", edited_values(content, rng)
