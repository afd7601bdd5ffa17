"""Arrays that keep their numbers: Flower's `Array` without writing and reading a file for each.

Flower's `Array` holds the bytes of a NumPy file: written when it is made, read whenever its numbers
are asked for. Between processes of one machine nobody needs those bytes, and they cost as much as
the training of a small client. In a process that called `keep_numbers`, an `Array` that is made of
numbers keeps a copy of them, `numpy()` gives a copy of that, and `data` is written when it is first
asked for. Numbers and bytes are the same as before.
"""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.app.message.array import SType

__all__ = ["keep_numbers"]

_PLAIN = "?bhilBHILefdFD"  # types that a NumPy file gives back as they were, in any byte order
_HELD = "_held"  # where in an Array's __dict__ its numbers are: nobody changes them
_MADE_OF_THEM = ("data", "_chunks")  # what can be made again, and does not travel

_from_numpy, _numpy, _set = Array.from_numpy_ndarray, Array.numpy, Array.__setattr__


def keep_numbers() -> None:
    """Let every `Array` that is made of numbers in this process keep them."""
    Array.from_numpy_ndarray = classmethod(_made)
    Array.numpy = _copied
    Array.__getattr__ = _written
    Array.__setattr__ = _changed
    Array.__reduce_ex__ = _reduced
    ArrayRecord.from_array_dict = classmethod(_gathered)


def _made(cls: Any, ndarray: Any) -> Array:
    """Stand in for `Array.from_numpy_ndarray`."""
    if type(ndarray) is not np.ndarray or ndarray.dtype.char not in _PLAIN:
        return _from_numpy(ndarray)
    array = cls.__new__(cls)
    # As a file has it: Fortran's order where it is that and not C's too.
    held = ndarray.copy(order="F" if ndarray.flags.fnc else "C")
    known = {"dtype": str(held.dtype), "shape": held.shape, "stype": SType.NUMPY}
    array.__dict__.update(known, _is_dirty=True, _held=held)
    return array


def _copied(self: Array) -> Any:
    """Stand in for `Array.numpy`."""
    held = self.__dict__.get(_HELD)
    if held is None or self.stype != SType.NUMPY:
        return _numpy(self)
    return held.copy(order="K")


def _written(self: Array, name: str) -> Any:
    """Stand in for an attribute that is not there: the bytes of an array that has only numbers."""
    held = self.__dict__.get(_HELD)
    if name != "data" or held is None:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    data = self.__dict__["data"] = _from_numpy(held).data
    return data


def _changed(self: Array, name: str, value: Any) -> None:
    """Stand in for `Array.__setattr__`: other bytes are other numbers."""
    if name == "data":
        self.__dict__.pop(_HELD, None)
    _set(self, name, value)


def _reduced(self: Array, protocol: int) -> Any:
    """Stand in for what pickle asks for: an array travels as its numbers, or as its bytes."""
    if _HELD not in self.__dict__:
        return object.__reduce_ex__(self, protocol)
    return _opened, ({k: v for k, v in self.__dict__.items() if k not in _MADE_OF_THEM},)


def _opened(state: dict[str, Any]) -> Array:
    """Make an array of what it travelled as.

    Its numbers are copied out of the memory that they came in: a client's state that is kept would
    hold on to all that came with it there.
    """
    if Array.numpy is not _copied:
        keep_numbers()
    held = state[_HELD]
    return _of({**state, _HELD: held if held.flags.owndata else held.copy(order="K")})


def _gathered(cls: Any, array_dict: dict[str, Array], *, keep_input: bool = True) -> ArrayRecord:
    """Stand in for `ArrayRecord.from_array_dict`: arrays that do not follow those given."""
    record = cls()
    for name, array in array_dict.items():
        record[name] = _of(array.__dict__)
    if not keep_input:
        array_dict.clear()
    return record


def _of(state: dict[str, Any]) -> Array:
    array = Array.__new__(Array)
    array.__dict__.update(state)
    return array
