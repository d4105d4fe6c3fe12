"""Pickles, read without unpickling: nothing that a file names is ever imported or called.

The file's instructions are taken apart by pickletools and followed here. What they may build is plain: dicts, lists,
tuples, sets, numbers, strings, bytes and NumPy's arrays of numbers and strings, which are put together from their bytes
after their shape has been checked. A file that wants anything else, or is damaged, is refused.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

KIND = re.compile(r"[biuf][1248]|[US]\d{1,6}|b1|O8?")  # of an array's entries, as a pickle spells it
DEEPEST = 8  # dimensions of an array
MOST = 5_000_000  # entries of one that is a list
_MARK = object()


class NotPlain(ValueError):
    """Why a pickle is not read."""


@dataclass
class _Kind:
    """numpy.dtype, before it is known in which order its bytes are."""

    text: str
    order: str = "<"

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.text)


@dataclass
class _Array:
    """numpy.ndarray, which a pickle names before it fills it."""

    value: np.ndarray | list | None = None


@dataclass(frozen=True)
class _Name:
    """Something that a pickle may name."""

    text: str


def read_plain(content: bytes) -> Any:
    """What a pickle holds; arrays, which have to be asked for with `as_array`, apart. NotPlain with a reason."""
    try:
        return _Machine().run(content)
    except NotPlain:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError, MemoryError) as error:
        raise NotPlain(f"it is damaged or no pickle ({str(error)[:120] or type(error).__name__})") from None


def as_array(value: Any) -> np.ndarray:
    """An array of what a pickle held as one, or as a list or tuple of numbers or strings, which may be None. NotPlain
    for anything else."""
    found = value.value if isinstance(value, _Array) else value
    if isinstance(found, np.ndarray):
        return found
    if not isinstance(found, list | tuple):
        raise NotPlain(f"it holds a {type(found).__name__} where an array was wanted")
    _entries(found, 0)
    try:
        made = np.array([as_array(v) if isinstance(v, _Array | list | tuple) else v for v in found])
    except (ValueError, OverflowError, TypeError):
        raise NotPlain("it holds lists of different lengths where an array was wanted") from None
    if made.dtype.kind not in "biufU" and not all(v is None or isinstance(v, str) for v in found):
        raise NotPlain("it holds a list of something else than numbers or strings where an array was wanted")
    return made


def _entries(value: Any, deep: int) -> int:
    """How many there are in lists of lists; NotPlain for too many, as lists have that hold one list many times."""
    found = value.value if isinstance(value, _Array) else value
    if isinstance(found, np.ndarray):
        return found.size
    if not isinstance(found, list | tuple):
        return 1
    if deep > DEEPEST:
        raise NotPlain("it is nested too deeply")
    number = 1
    for entry in found:
        number += _entries(entry, deep + 1)
        if number > MOST:
            raise NotPlain(f"it holds an array of more than {MOST:,} entries")
    return number


class _Machine:
    """Follows the instructions of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
            name = opcode.name
            if name == "STOP":
                return self.pop()
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in LITERALS:
                self.stack.append(argument)
            elif name in EMPTY:
                self.stack.append(EMPTY[name]())
            elif name in TUPLES:
                self.stack.append(tuple([self.pop() for _ in range(TUPLES[name])][::-1]))
            elif name not in ("PROTO", "FRAME"):
                followed = getattr(self, f"do_{name.lower()}", None)
                if followed is None:
                    raise NotPlain(f"it has the instruction {name}, which plain values do not need")
                followed(argument)
        raise NotPlain("it ends too early")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise NotPlain("it is damaged: a mark stands where a value was wanted")
        return value

    def marked(self) -> list[Any]:
        """All that is above the last mark, which is taken away with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise NotPlain("it is damaged: a mark is missing")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    # memory and stack

    def do_mark(self, _) -> None:
        self.stack.append(_MARK)

    def do_pop(self, _) -> None:
        self.stack.pop()

    def do_pop_mark(self, _) -> None:
        self.marked()

    def do_dup(self, _) -> None:
        self.stack.append(self.stack[-1])

    def do_memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_put(self, number) -> None:
        self.memo[int(number)] = self.stack[-1]

    def do_get(self, number) -> None:
        self.stack.append(self.memo[int(number)])

    do_binput = do_long_binput = do_put
    do_binget = do_long_binget = do_get

    # containers

    def do_list(self, _) -> None:
        self.stack.append(self.marked())

    def do_tuple(self, _) -> None:
        self.stack.append(tuple(self.marked()))

    def do_dict(self, _) -> None:
        values = self.marked()
        self.stack.append({})
        self._set(values)

    def do_frozenset(self, _) -> None:
        self.stack.append(_set(self.marked()))

    def do_append(self, _) -> None:
        value = self.pop()
        self._top(list).append(value)

    def do_appends(self, _) -> None:
        values = self.marked()
        self._top(list).extend(values)

    def do_setitem(self, _) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def do_setitems(self, _) -> None:
        self._set(self.marked())

    def do_additems(self, _) -> None:
        values = self.marked()
        self._top(set).update(_set(values))

    def _top(self, wanted: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], wanted):
            raise NotPlain(f"it is damaged: a {wanted.__name__} was wanted")
        return self.stack[-1]

    def _set(self, values: list) -> None:
        found = self._top(dict)
        found.update((_simple(key), value) for key, value in zip(values[::2], values[1::2], strict=True))

    # what else may be named

    def do_global(self, said) -> None:
        module, _, name = said.partition(" ")
        self.stack.append(_named(module, name))

    def do_stack_global(self, _) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_named(module, name))

    def do_reduce(self, _) -> None:
        arguments, what = self.pop(), self.pop()
        made = CALLS.get(what.text) if isinstance(what, _Name) else None
        if made is None or not isinstance(arguments, tuple):
            raise NotPlain("it wants to call something that makes no plain value")
        self.stack.append(made(*arguments))

    do_newobj = do_reduce

    def do_build(self, _) -> None:
        told, built = self.pop(), self.stack[-1]
        if isinstance(built, _Array):
            _, shape, kind, fortran, content = told
            built.value = _array(content, kind, shape, "F" if fortran else "C")
        elif isinstance(built, _Kind):
            built.order = ">" if told[1] == ">" else "<"
        elif not isinstance(built, dict):  # of a dict of a class of its own, the attributes
            raise NotPlain("it gives a state to something that has none")


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _simple(key: Any) -> Any:
    if not isinstance(key, str | int | float | bytes | None):
        raise NotPlain(f"a {type(key).__name__} is a key or a member of a set, where a string or number was wanted")
    return key


def _set(values: Any) -> set:
    if not isinstance(values, list | tuple | set):
        raise NotPlain("it is damaged: a set is made of something else than a list")
    return {_simple(value) for value in values}


def _dict(*arguments: Any) -> dict:
    given = arguments[0] if arguments else []
    return {_simple(key): value for key, value in (given.items() if isinstance(given, dict) else given)}


def _kind(text: Any, *_: Any) -> _Kind:
    if not isinstance(text, str) or not KIND.fullmatch(text):
        raise NotPlain("it holds an array of neither numbers nor strings")
    return _Kind(text)


def _array(content: Any, kind: Any, shape: Any, order: str) -> np.ndarray | list:
    if not isinstance(kind, _Kind) or not isinstance(shape, tuple) or len(shape) > DEEPEST:
        raise NotPlain("it holds an array without a shape or a type")
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise NotPlain("it holds an array of an impossible shape")
    if kind.text.startswith("O"):
        if not isinstance(content, list) or len(content) != math.prod(shape) or len(shape) != 1:
            raise NotPlain("it holds an array of objects, where numbers or strings were wanted")
        return content
    if kind.text.startswith("U"):
        content = _checked_text(content)
    dtype = kind.dtype()
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(shape) * dtype.itemsize:
        raise NotPlain(f"it holds an array of shape {shape} whose bytes are not as many")
    return np.frombuffer(content, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _checked_text(content: Any) -> Any:
    """The bytes of an array of strings, each character of which must be one."""
    if isinstance(content, bytes | bytearray) and len(content) % 4 == 0:
        if not len(content) or np.frombuffer(content, "<u4").max() <= 0x10FFFF:
            return content
    raise NotPlain("it holds an array of strings with characters that there are not")


def _scalar(kind: Any, content: Any) -> Any:
    found = _array(content, kind, (), "C")
    return found.item() if isinstance(found, np.ndarray) else found


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise NotPlain("it is damaged: bytes are spelt in an unknown way")
    return text.encode("latin1")


def _named(module: Any, name: Any) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise NotPlain("it is damaged: a name is no text")
    text = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
    if text not in CALLS and text not in MARKERS:
        raise NotPlain(f"it wants to use {text[:80]}, which is no plain value")
    return _Name(text)


# What may be called, by what is done instead; and what may only be named
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda content, kind, shape, order: _Array(_array(content, kind, shape, order)),
    "numpy.dtype": _kind,
    "_codecs.encode": _bytes,
    "builtins.bytes": lambda: b"",  # how old protocols spell it
    "builtins.set": lambda values=(): _set(values),
    "builtins.frozenset": lambda values=(): _set(values),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    "metadrive.scenario.scenario_description.ScenarioDescription": _dict,
}
MARKERS = {"numpy.ndarray", *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict"))}
