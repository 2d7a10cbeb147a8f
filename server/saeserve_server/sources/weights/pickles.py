"""What a pickle describes, without unpickling it: a table of tensors, by the few instructions that one is made of.

They only build names, numbers, tables and descriptions of tensors: there is nothing here that could call what a file
names. Anything else is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.weights.files import AGAIN

NO_STATE_DICT = f"not a PyTorch state dict of tensors, or {AGAIN}"

DTYPES = {
    "torch.DoubleStorage": ("float64", 8),
    "torch.FloatStorage": ("float32", 4),
    "torch.HalfStorage": ("float16", 2),
    "torch.BFloat16Storage": ("bfloat16", 2),
    "torch.LongStorage": ("int64", 8),
    "torch.IntStorage": ("int32", 4),
    "torch.ShortStorage": ("int16", 2),
    "torch.CharStorage": ("int8", 1),
    "torch.ByteStorage": ("uint8", 1),
    "torch.BoolStorage": ("bool", 1),
}
"""torch's name of the type, and bytes of a number."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers that tensors share, by its key in the file."""

    dtype: str
    """torch's name of it."""
    itemsize: int
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes that it claims to have."""
        return self.numel * self.itemsize


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor: which numbers of a storage it has."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def interpret(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """What one pickle describes, and the storages in it by key. Raises ConfigError."""
    try:
        return _run(file)
    except ConfigError:
        raise
    except Exception as error:  # what a damaged or hostile pickle raises has no common type
        raise ConfigError(NO_STATE_DICT) from error


def _run(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(file):
        match code.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop(), storages
            case "MARK":
                below.append(stack)
                stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "APPENDS" | "SETITEMS":
                items, stack = stack, below.pop()
                _take(stack, code.name, items)
            case "APPEND":
                _take(stack, code.name, [stack.pop()])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _take(stack, code.name, [key, value])
            case "GLOBAL":
                stack.append(Named(argument.replace(" ", ".")))
            case "BINPERSID":
                storage = _storage(stack.pop())
                storages[storage.key] = storage
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_rebuilt(function, arguments))
            case "BUILD":  # what a table knows of itself: the versions of modules
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _code(stack[-1])
            case _:
                raise _code(Named(f"the instruction {code.name}"))
    raise ConfigError(NO_STATE_DICT)


def _take(stack: list[Any], name: str, items: list[Any]) -> None:
    """Items become a tuple, or go into the list or table on top of the stack."""
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name.startswith("APPEND") and isinstance(stack[-1], list):
        stack[-1].extend(items)
    elif name.startswith("SETITEM") and isinstance(stack[-1], dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # a tuple of tuples of … may take forever to hash
                raise ConfigError(f"refused: a table with a key that is no name: {shown(key)}")
            stack[-1][key] = value
    else:
        raise _code(stack[-1])


def _storage(claim: Any) -> Storage:
    match claim:
        case ("storage", Named(name), str(key), str(), int(count), *_) if name in DTYPES and count >= 0:
            return Storage(*DTYPES[name], key, count)
        case ("storage", Named() as kind, *_):
            raise _code(kind)
    raise ConfigError(NO_STATE_DICT)


def _rebuilt(function: Any, arguments: Any) -> Any:
    """What a call gives, of the few that state dicts are made of."""
    match function, arguments:
        case Named("collections.OrderedDict"), ():
            return {}
        case Named("torch._utils._rebuild_parameter"), (Stored() as tensor, *_):
            return tensor
        case Named("torch._utils._rebuild_tensor_v2"), (
            Storage() as storage,
            int(offset),
            tuple(shape),
            tuple(strides),
            bool(),
            _,
            *marks,  # of a tensor that is stored negated or conjugated
        ) if not any(marks) and len(shape) == len(strides):
            if not all(type(size) is int and size >= 0 for size in (offset, *shape, *strides)):
                raise ConfigError(f"a tensor of shape {shown(shape)} and strides {shown(strides)}")
            return Stored(storage, offset, shape, strides)
        case Named("torch.Size"), (tuple(shape),):
            return shape
        case Named("torch.device"), (str(device), *_):
            return device
    raise _code(function)


def _code(found: Any) -> ConfigError:
    name = found.name if isinstance(found, Named) else type(found).__name__
    return ConfigError(
        f"refused: it holds pickled code or objects ({name}), expected tensors only: save its state_dict() instead"
    )
