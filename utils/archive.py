"""The archives that torch.save writes, read so that nothing in them decides how much memory is taken, or what is run.

An archive is a zip file of a pickle and the bytes of each tensor. What the pickle says is described first: plain
values, and of each tensor its shape and where its bytes are (`Stored`). Only tensors that lie within the file are
described, so that no value is larger than the file is. Who knows what they want looks at that, and then has the tensors
read. The pickle is gone through here, operation by operation, of which there are few: it builds dicts, lists, tuples,
numbers and strings and nothing else, and calls nothing.

    with open(path, "rb") as file:
        archive = Archive(file)
        described = archive.describe()      # no tensor has been read yet
        content = archive.read(described)   # ValueError where bytes do not match their checksums
"""

import hashlib
import math
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

END = b"PK\x05\x06"  # of a zip file: its last record, of END_SIZE bytes, which says where its directory is
END_SIZE = 22
MOST_PICKLED = 1 << 26  # bytes of the pickle, which has no tensors in it
MOST_DIRECTORY = 1 << 24  # bytes of the zip directory
MOST_TIMES = 4  # values for each byte of the pickle, of which a value takes one at least
SPARE_VALUES = 10_000
DEEPEST = 16  # containers in each other
LONGEST_KEY = 20
MOST_DIMENSIONS = 8
READ_AT_ONCE = 1 << 20  # bytes
# what torch calls the kinds of storages, the dtypes they are of, and the bytes of a number
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


class Foreign(Exception):
    """An archive holds something else than tensors and plain values."""


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read.

    Fields:
        dtype: as torch calls it        shape, stride: of the tensor        offset: of its first number in the storage
        key: name of the storage's bytes in the archive        numbers: that the storage has
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    key: str
    numbers: int


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numbers: int


@dataclass(frozen=True)
class _Named:
    """What a pickle calls by its name."""

    name: str


REBUILD, ORDERED = _Named("torch._utils _rebuild_tensor_v2"), _Named("collections OrderedDict")
NAMED = {one.name: one for one in (REBUILD, ORDERED, *(_Named(f"torch {kind}") for kind in STORAGES))}
MARK = object()


class Archive:
    """An archive in an open file; ValueError, zipfile.BadZipFile and others where it is damaged."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = opened(file)
        root = self._zip.infolist()[0].filename.partition("/")[0]
        self._records = {info.filename.partition("/")[2]: info for info in self._zip.infolist()}
        if any(info.filename.partition("/")[0] != root for info in self._zip.infolist()):
            raise ValueError("not all of it is in one folder")
        damaged = self._zip.testzip()
        if damaged:
            raise ValueError(f"{damaged} does not match its checksum")
        if self._bytes("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
            raise ValueError("its bytes are in another order than this machine's")

    def describe(self) -> Any:
        """Its content, with `Stored` in place of tensors; Foreign where it has anything else than plain values."""
        if "data.pkl" not in self._records or self._records["data.pkl"].file_size > MOST_PICKLED:
            raise ValueError("it has no pickle, or one of more bytes than any checkpoint has")
        sizes = {name: info.file_size for name, info in self._records.items()}
        return described(self._bytes("data.pkl"), sizes)

    def read(self, description: Any) -> Any:
        """The content, tensors on the CPU; those that shared a storage do so again."""
        storages: dict[str, Tensor] = {}
        tensors: dict[int, Tensor] = {}  # by what describes them, which a pickle may name more than once

        def tensor(stored: Stored) -> "Tensor":
            if stored.key not in storages:
                storages[stored.key] = self._storage(stored)
            if id(stored) not in tensors:
                whole = storages[stored.key]
                storage = whole.untyped_storage()
                tensors[id(stored)] = whole.new_empty(0).set_(storage, stored.offset, stored.shape, stored.stride)
            return tensors[id(stored)]

        return _filled(description, tensor)

    def _storage(self, stored: Stored) -> "Tensor":
        """All numbers of a tensor's storage, (N,)."""
        import torch

        whole = torch.empty(stored.numbers, dtype=getattr(torch, stored.dtype))
        place, at = whole.view(torch.uint8).numpy().data, 0
        with self._zip.open(self._records[stored.key]) as record:
            while part := record.read(READ_AT_ONCE):
                place[at : at + len(part)] = part
                at += len(part)
        if stored.dtype == "bool" and stored.numbers and int(whole.view(torch.uint8).max()) > 1:
            raise ValueError(f"{stored.key} has yes or no that is neither")
        return whole

    def _bytes(self, name: str, default: bytes = b"") -> bytes:
        return self._zip.read(self._records[name]) if name in self._records else default


def opened(file: BinaryIO) -> zipfile.ZipFile:
    """The zip file, its directory checked against the file's size before any of it is believed."""
    size = file.seek(0, 2)
    if size < END_SIZE:
        raise ValueError("it is too short")
    file.seek(size - END_SIZE)
    end = file.read(END_SIZE)
    directory, begins = struct.unpack("<2L", end[12:20])
    if end[:4] != END or end[20:] != b"\0\0":
        raise ValueError("it is no archive, or not all of one")
    large = begins == 0xFFFFFFFF and size > begins  # the end is told by another record
    if not large and (directory > MOST_DIRECTORY or begins + directory > size - END_SIZE):
        raise ValueError("its directory is larger than any checkpoint's")
    archive = zipfile.ZipFile(file)
    infos = archive.infolist()
    if not infos or len({info.filename.casefold() for info in infos}) < len(infos):
        raise ValueError("names in its directory are missing, or there twice")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"{info.filename[:60]!r} is compressed or encrypted, which no checkpoint is")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its directory tells of more bytes than it has")
    return archive


def described(pickled: bytes, sizes: Mapping[str, int]) -> Any:
    """What a pickle says, with `Stored` for tensors; `sizes`: bytes of each record of the archive."""
    machine = _Machine(sizes)
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "STOP":
            break
        machine.do(operation.name, argument)
    (value,) = machine.stack
    for _ in values(value, MOST_TIMES * len(pickled) + SPARE_VALUES):
        pass
    return value


def values(value: Any, most: float = math.inf) -> Iterator[Any]:
    """All values, containers before what is in them; ValueError where there are more than `most`: containers may be
    named again in each other, until a few bytes stand for billions."""
    waiting, count = [(value, 0)], 1
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (_Named, _Storage)) or value is MARK:
            raise Foreign(f"{value} by itself")
        yield value
        if isinstance(value, (dict, list, tuple)):
            count += len(value)
            if count > most or depth > DEEPEST:
                raise ValueError("it holds more values, or more in each other, than any checkpoint does")
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]


class _Machine:
    """What a pickle is carried out by: see pickletools for what each operation means."""

    PLAIN = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
    CONSTANT: Mapping[str, Callable[[], Any]] = {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_DICT": dict,
        "EMPTY_LIST": list,
        "EMPTY_TUPLE": tuple,
        "MARK": lambda: MARK,
    }
    LAST = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in self.PLAIN:
            stack.append(argument)
        elif name in self.CONSTANT:
            stack.append(self.CONSTANT[name]())
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in self.LAST:
            stack[-self.LAST[name] :] = [tuple(stack[-self.LAST[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("APPEND", "APPENDS"):
            self._append([stack.pop()] if name == "APPEND" else self._marked())
        elif name in ("SETITEM", "SETITEMS"):
            self._set([stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked())
        elif name == "GLOBAL":
            if argument not in NAMED:
                raise Foreign(argument)
            stack.append(NAMED[argument])
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            stack.append(self._called(stack.pop(-2), stack.pop()))
        elif name == "BUILD":  # of state dicts, which say of what versions their layers are
            stack.pop()
        elif name != "PROTO":
            raise Foreign(f"the operation {name}")

    def _marked(self) -> list[Any]:
        """What is on the stack after the last mark, which goes with it."""
        at = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is MARK)
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("something is appended to what is no list")
        self.stack[-1].extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("something is entered in what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            plain = key if type(key) is tuple else (key,)
            if not all(type(part) in (str, int, float) for part in plain) or key in target:
                raise ValueError("a key is no word and no number, or there twice")
            target[key] = value

    def _storage(self, told: Any) -> _Storage:
        kind, named, key, _, numbers = told
        storage = named.name.removeprefix("torch ") if isinstance(named, _Named) else ""
        fits = kind == "storage" and storage in STORAGES and type(key) is str and type(numbers) is int
        if not fits or len(key) > LONGEST_KEY:
            raise ValueError("a storage is told wrongly")
        dtype, width = STORAGES[storage]
        record = f"data/{key}"
        if record not in self._sizes or numbers * width != self._sizes[record]:
            raise ValueError(f"{record} has not the {numbers} numbers of {dtype} that are told of it")
        return _Storage(dtype, record, numbers)

    def _called(self, called: Any, arguments: Any) -> Any:
        if called is ORDERED and arguments == ():
            return {}
        if called is not REBUILD or type(arguments) is not tuple or not isinstance(arguments[0], _Storage):
            raise Foreign("a call of something else than what builds tensors")
        storage, offset, shape, stride = arguments[:4]
        whole = [offset, *shape, *stride]
        if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS or any(type(x) is not int or x < 0 for x in whole):
            raise ValueError("a tensor's shape is told wrongly")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        numbers = math.prod(shape)
        if numbers > storage.numbers or (numbers and last >= storage.numbers) or offset > storage.numbers:
            raise ValueError(f"a tensor of shape {shape} does not lie within its {storage.numbers} numbers")
        return Stored(storage.dtype, tuple(shape), tuple(stride), offset, storage.key, storage.numbers)


def _filled(value: Any, tensor: Callable[[Stored], "Tensor"]) -> Any:
    """`value` with tensors in place of what describes them."""
    if isinstance(value, Stored):
        return tensor(value)
    if isinstance(value, dict):
        return {key: _filled(part, tensor) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(part, tensor) for part in value)
    return value


def checksum(content: Any) -> str:
    """sha256 of plain values and tensors, whatever file they are in: of all that they say, in order."""
    total = hashlib.sha256()
    _add(content, total.update)
    return total.hexdigest()


def _add(value: Any, add: Callable[[bytes | memoryview], None]) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        said = str(value).encode("utf-8", "surrogatepass")
        add(b"%s %d " % (type(value).__name__.encode(), len(said)) + said)
    elif isinstance(value, float):
        add(b"float " + struct.pack("<d", value))
    elif isinstance(value, dict):
        add(b"dict %d " % len(value))
        for key, part in value.items():
            _add(key, add)
            _add(part, add)
    elif isinstance(value, (list, tuple)):
        add(b"%s %d " % (type(value).__name__.encode(), len(value)))
        for part in value:
            _add(part, add)
    else:
        import torch

        add(f"tensor {value.dtype} {tuple(value.shape)} {value.stride()} ".encode())
        add(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
