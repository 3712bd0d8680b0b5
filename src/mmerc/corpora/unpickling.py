"""Reading pickles of numpy arrays and builtin containers, and of nothing else.

A pickle is a program. Here it runs on Python's own interpreter of that language, the one written in Python
(the one in C allocates what a lying memo index asks for), with all its means to reach code taken away: a
name stands for one of the constructors below or is refused, only those can be called, only arrays and dtypes
take a state, and both check it before numpy sees it, since numpy trusts the lengths, flags and
references that it is given. Memory stays in proportion to the size of the file.
"""

import io
import math
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from mmerc.corpora.records import read_bytes
from mmerc.errors import CorpusError

# What a pickle that is cut off or scrambled makes the interpreter raise.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, RecursionError, RuntimeError, SystemError, struct.error,
)  # fmt: skip
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|O[48]?|[SU]\d{1,9}")
_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})
_SHOWN = 200  # characters of a name or message that comes from the file


def load_pickle(path: Path) -> object:
    """Read a pickle of numpy arrays, numpy scalars, builtin containers, text, bytes, numbers and None.

    Strings of Python 2 are read as Latin-1. `OrderedDict` and `defaultdict` become a dict, a `bytearray`
    becomes bytes. Keys of dictionaries and items of sets are scalars or tuples of scalars.

    Raises:
        CorpusError: the file is missing or broken, or asks for anything else; the message names the
            class or function. Nothing that the pickle names is imported or run.
    """
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of odd escapes in a damaged string
            return _Unpickler(data).load()
    except _RefusedError as refusal:
        raise CorpusError(
            f"{path} is refused: it {refusal}. A feature pickle may hold numpy arrays and builtin containers "
            f"only; nothing of it was run. Do not open it with another tool unless you trust its source"
        ) from None
    except _BROKEN as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")[:_SHOWN]
        raise CorpusError(
            f"{path} is not a pickle, or is damaged ({reason}): copy or download it again"
        ) from None


class _RefusedError(Exception):
    """The pickle asks for something that is not admitted; the text goes on after "it"."""


class _Budget:
    """What constructors may still copy, in bytes.

    An honest pickle carries the content of each array, set or byte string once. One that calls a
    constructor again and again on the same content could fill any memory from a small file.
    """

    def __init__(self, size: int) -> None:
        self.left = 4 * size + 2**20

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _RefusedError("unfolds to many times its size (a memory bomb)")


@dataclass(frozen=True, eq=False)
class _Constructor:
    """What a name in the pickle stands for: never the real class or function."""

    name: str
    make: Callable[..., object] | None = None  # (budget, *arguments); None: a class that is only referred to


class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.budget = _Budget(len(data))

    def find_class(self, module: str, name: str) -> _Constructor:
        constructor = _CONSTRUCTORS.get((module, name))
        if constructor is None:
            raise _RefusedError(f"asks for the class or function {f'{module}.{name}'[:_SHOWN]!r}")
        return constructor

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _RefusedError("refers to an object outside of the file (a persistent id)")

    def get_extension(self, code: int) -> NoReturn:
        raise _RefusedError(f"asks for the class of extension code {code} (of copyreg)")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Constructor:
            raise _RefusedError(f"calls an object of type {type(function).__name__!r}")
        if function.make is None:
            raise _RefusedError(f"calls {function.name!r} directly")
        if type(arguments) is not tuple:
            raise ValueError(f"arguments of {function.name} are no tuple")
        self.stack[-1] = function.make(self.budget, *arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            _fill_array(self.budget, target, state)
        elif isinstance(target, np.dtype):
            _set_byte_order(target, state)
        else:
            name = target.name if type(target) is _Constructor else type(target).__name__
            raise _RefusedError(f"sets the state of {name!r}")

    def load_instance(self) -> NoReturn:
        """OBJ, NEWOBJ, NEWOBJ_EX: instances of a class on the stack; nothing that is admitted needs them."""
        names = [item.name for item in self.stack if type(item) is _Constructor]
        name = names[-1] if names else "a class"
        raise _RefusedError(f"makes an instance of {name!r} without its constructor")

    def load_named_instance(self) -> NoReturn:
        """INST, which brings the name of the class along."""
        module, name = (self.readline()[:-1].decode("latin1") for _ in range(2))
        raise _RefusedError(f"asks for an instance of {f'{module}.{name}'[:_SHOWN]!r}")

    def load_readonly_buffer(self) -> NoReturn:
        raise _RefusedError("uses out-of-band buffers")

    def load_bytearray(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        content = self.read(count)
        if len(content) != count:
            raise EOFError("a bytearray is cut off")
        self.stack.append(content)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(_hashable, items)))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(_paired(items))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _of_type(self.stack[-1], dict)[_hashable(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _of_type(self.stack[-1], dict).update(_paired(items))

    def load_additems(self) -> None:
        items = self.pop_mark()
        _of_type(self.stack[-1], set).update(map(_hashable, items))

    def load_append(self) -> None:
        item = self.stack.pop()
        _of_type(self.stack[-1], list).append(item)

    def load_appends(self) -> None:
        items = self.pop_mark()
        _of_type(self.stack[-1], list).extend(items)

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.INST[0]: load_named_instance,
        pickle.OBJ[0]: load_instance,
        pickle.NEWOBJ[0]: load_instance,
        pickle.NEWOBJ_EX[0]: load_instance,
        pickle.READONLY_BUFFER[0]: load_readonly_buffer,
        pickle.BYTEARRAY8[0]: load_bytearray,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
    }


def _make_array(budget: _Budget, subtype: object, shape: object, typecode: object) -> object:
    if subtype is not _NDARRAY:
        name = subtype.name if type(subtype) is _Constructor else type(subtype).__name__
        raise _RefusedError(f"makes an array of class {name!r}")
    if type(shape) is not tuple or shape != (0,) or typecode not in (b"b", "b"):
        raise _RefusedError("calls 'numpy._core.multiarray._reconstruct' in a form that numpy does not write")
    return np.ndarray((0,), np.int8)  # its state follows


def _make_scalar(budget: _Budget, dtype: object, content: object) -> object:
    kind = _plain_dtype(dtype)
    raw = _raw(content, kind.itemsize)
    budget.spend(len(raw))
    return np.frombuffer(raw, kind)[0] if raw else kind.type()


def _make_dtype(budget: _Budget, spec: object, *_flags: object) -> object:
    if type(spec) is not str or not _DTYPE.fullmatch(spec):
        shown = spec[:_SHOWN] if type(spec) is str else type(spec).__name__
        raise _RefusedError(f"asks for the type of array 'numpy.dtype({shown})'")
    return np.dtype("O" if spec.startswith("O") else spec, copy=True)  # a copy, as a state may follow


def _make_from_buffer(
    budget: _Budget, content: object, dtype: object, shape: object, order: object, axes: object = None
) -> object:
    kind = _plain_dtype(dtype)
    sizes = _shape(shape)
    raw = _raw(content, math.prod(sizes) * kind.itemsize)
    budget.spend(len(raw))
    if type(order) is not str or order not in "CFK":
        raise ValueError("an array has an unknown order")
    if order == "K":  # an array that was transposed before it was written
        return np.ndarray(sizes, kind, raw).transpose(_shape(axes)).copy(order="K")
    return np.ndarray(sizes, kind, raw, order="F" if order == "F" else "C").copy(order="K")


def _make_bytes(budget: _Budget, text: object, encoding: object) -> object:
    # Python 3 writes bytes at protocol 0 to 2 as Latin-1 text; any other codec would be foreign code.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        shown = encoding[:_SHOWN] if type(encoding) is str else type(encoding).__name__
        raise _RefusedError(f"calls '_codecs.encode' with the codec {shown!r}")
    budget.spend(len(text))
    return text.encode("latin-1")


def _make_no_bytes(budget: _Budget) -> object:
    return b""


def _make_set(budget: _Budget, items: object = ()) -> object:
    return set(map(_hashable, _listed(budget, items)))


def _make_frozenset(budget: _Budget, items: object = ()) -> object:
    return frozenset(map(_hashable, _listed(budget, items)))


def _make_dict(budget: _Budget, pairs: object = ()) -> object:
    return {_hashable(key): value for key, value in map(tuple, _listed(budget, pairs))}


def _make_default_dict(budget: _Budget, factory: object = None, pairs: object = ()) -> object:
    if factory is not None and type(factory) is not _Constructor:
        raise ValueError("a defaultdict without a class")
    return _make_dict(budget, pairs)  # the default is of no use to a reader


def _fill_array(budget: _Budget, array: "np.ndarray[Any, Any]", state: object) -> None:
    """Do what `ndarray.__setstate__` does, after checking what it takes on trust."""
    if type(state) is not tuple or len(state) not in (4, 5):
        raise ValueError("an array has no usable state")
    shape, dtype, fortran, content = state[-4:]
    sizes = _shape(shape)
    count = math.prod(sizes)
    if not isinstance(dtype, np.dtype):
        raise ValueError("an array has no dtype")
    if dtype.hasobject:
        if type(content) is not list or len(content) != count:
            raise ValueError("an array of objects has another length than it says")
        budget.spend(8 * count)
    else:
        content = _raw(content, count * dtype.itemsize)
        budget.spend(len(content))
    array.__setstate__((1, sizes, dtype, bool(fortran), content))  # type: ignore[arg-type]  # wants np.bool


def _set_byte_order(dtype: "np.dtype[Any]", state: object) -> None:
    """Take the byte order from a dtype's state; its sizes and flags follow from the type itself."""
    if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise ValueError("a dtype has no usable state")
    if any(part is not None for part in state[2:5]):
        raise _RefusedError("asks for a structured 'numpy.dtype'")
    ordered = dtype if state[1] in "|=" else dtype.newbyteorder(state[1])
    dtype.__setstate__(ordered.__reduce__()[2])  # type: ignore[attr-defined]  # numpy's stubs leave it out


def _plain_dtype(dtype: object) -> "np.dtype[Any]":
    if not isinstance(dtype, np.dtype):
        raise ValueError("an array has no dtype")
    if dtype.hasobject:
        raise _RefusedError("makes an object out of memory ('numpy.dtype(O)')")
    return dtype


def _shape(shape: object) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array has no usable shape")
    return shape


def _raw(content: object, length: int) -> bytes:
    if type(content) is str:  # of Python 2
        content = content.encode("latin-1")
    if type(content) is not bytes or len(content) != length:
        raise ValueError("an array has another length than it says")
    return content


def _listed(budget: _Budget, items: object) -> Iterable[Any]:
    if type(items) not in (list, tuple, set, frozenset):
        raise ValueError(f"a container is made of {type(items).__name__}")
    assert isinstance(items, Iterable)
    items = list(items)
    budget.spend(8 * len(items))
    return items


def _paired(items: list[Any]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _hashable(item: object) -> object:
    """Return `item` if its hash is cheap: that of nested tuples can take forever."""
    parts = item if type(item) is tuple else (item,)
    for part in parts:
        if type(part) not in _SCALARS and not isinstance(part, np.generic):
            raise ValueError(f"a key of type {type(part).__name__}")
    return item


def _of_type(target: Any, kind: type) -> Any:
    if type(target) is not kind:
        raise ValueError(f"items for a {kind.__name__} go to a {type(target).__name__}")
    return target


_NDARRAY = _Constructor("numpy.ndarray")


def _constructors() -> dict[tuple[str, str], _Constructor]:
    makers: dict[str, Callable[..., object]] = {
        "_codecs.encode": _make_bytes,
        "collections.OrderedDict": _make_dict,
        "collections.defaultdict": _make_default_dict,
        "numpy.dtype": _make_dtype,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        makers[f"{core}.multiarray._reconstruct"] = _make_array
        makers[f"{core}.multiarray.scalar"] = _make_scalar
        makers[f"{core}.numeric._frombuffer"] = _make_from_buffer
    builtin = {"set": _make_set, "frozenset": _make_frozenset, "dict": _make_dict, "bytes": _make_no_bytes}
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        makers |= {f"{module}.{name}": make for name, make in builtin.items()}
    table = {name: _Constructor(name, make) for name, make in makers.items()}
    table["numpy.ndarray"] = _NDARRAY
    for module in ("copyreg", "copy_reg"):  # comes before the class that it makes, which is to be named
        table[f"{module}._reconstructor"] = _Constructor(f"{module}._reconstructor")
    for module in ("builtins", "__builtin__"):  # what a defaultdict is made with
        for name in ("list", "tuple", "int", "float", "str"):
            table[f"{module}.{name}"] = _Constructor(f"{module}.{name}")
    return {(name.rpartition(".")[0], name.rpartition(".")[2]): entry for name, entry in table.items()}


_CONSTRUCTORS = _constructors()
