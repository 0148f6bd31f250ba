"""Arrays that stand for a GPU's: as strict as CuPy's about what lies where.

A `DeviceArray` mixes with other DeviceArrays and with numbers. An array of the host among them is
an error, and so is every silent way back to the host: `get()` is the only one.
"""

from typing import Any

import numpy as np

from tests.cuda_on_cpu import memory, recording

VIEWS = ("reshape", "view", "transpose", "squeeze", "ravel")  # methods that may be views


class DeviceArray:
    """A NumPy array that only the emulated device may look into.

    Attributes:
        held: the NumPy array, for the emulator's own use.
    """

    __array_ufunc__ = None  # NumPy's arrays leave operators to us, and we refuse theirs
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, held: Any) -> None:
        self.held = held

    def get(self) -> Any:
        """A copy on the host."""
        recording.refuse("a read by the host")
        return self.held.copy()

    def set(self, values: Any) -> None:
        """Copy from the host."""
        recording.refuse("a copy from the host")
        if not isinstance(values, np.ndarray):
            raise TypeError(f"set: {type(values).__name__}, expected an array of the host")
        if values.dtype != self.held.dtype or values.shape != self.held.shape:
            raise ValueError("set: another dtype or shape")
        self.held[...] = values

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion of a device array to an array of the host")

    def __bool__(self) -> bool:
        recording.refuse("a read by the host")
        return bool(self.held)

    def __float__(self) -> float:
        recording.refuse("a read by the host")
        return float(self.held)

    def __int__(self) -> int:
        recording.refuse("a read by the host")
        return int(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, key: Any) -> "DeviceArray":
        return DeviceArray(recording.view_of(self.held, _part(self.held, key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        if recording.current() is None:
            self.held[_unwrapped(key)] = _unwrapped(value)
        else:
            part = recording.view_of(self.held, _part(self.held, key))
            recording.do("copy", _assign, part, _unwrapped(value))

    @property
    def data(self) -> Any:
        return memory.Pointer(self.held.ctypes.data)

    @property
    def T(self) -> "DeviceArray":
        return DeviceArray(self.held.T)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("ctypes", "tobytes", "tolist", "item", "tofile"):
            raise AttributeError(f"a device array has no {name}")
        found = getattr(self.held, name)
        if not callable(found):
            return found
        if recording.current() is None:
            return _wrapping(found)
        if name == "fill":
            return lambda value: recording.do("fill", _assign, self.held, value)
        if name not in VIEWS:
            recording.refuse(f"an array's {name}, which asks for memory or waits,")
        return lambda *args: DeviceArray(recording.view_of(self.held, found(*args)))


def _part(held: Any, key: Any) -> Any:
    """Some of an array; one element, too, is a view."""
    found = held[_unwrapped(key)]
    if isinstance(found, np.generic):
        found = held[(*(key if isinstance(key, tuple) else (key,)), Ellipsis)]
    return found


def _assign(to: Any, value: Any) -> None:
    to[...] = value


def _operator(name: str) -> Any:
    in_place = name.startswith("__i") and name != "__invert__"

    def method(self: DeviceArray, *others: Any) -> Any:
        if recording.current() is not None:
            if not in_place:
                recording.refuse(f"memory was asked for (by {name})")
            recording.do(
                name, lambda x, *y: getattr(x, name)(*y), self.held, *map(_unwrapped, others)
            )
            return self
        result = getattr(self.held, name)(*(_unwrapped(other) for other in others))
        if result is NotImplemented:
            return result
        if in_place:
            return self
        return wrapped(result)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or"):
    for _prefix in ("", "r", "i"):
        setattr(DeviceArray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"):
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))


def wrapped(result: Any) -> Any:
    """What a NumPy function returned, as the device's."""
    if isinstance(result, np.ndarray | np.generic):
        return DeviceArray(np.asarray(result))
    if isinstance(result, tuple | list):
        return type(result)(wrapped(x) for x in result)
    return result


def _unwrapped(x: Any) -> Any:
    if isinstance(x, DeviceArray):
        return x.held
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError("an array of the host among device arrays")
    if isinstance(x, tuple | list):
        return type(x)(_unwrapped(item) for item in x)
    return x


def _wrapping(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if recording.current() is not None:
            _record(function, args, kwargs)
            return out
        kwargs = {name: _unwrapped(value) for name, value in kwargs.items()}
        result = function(*(_unwrapped(x) for x in args), **kwargs)
        return out if out is not None else wrapped(result)

    return call


def _record(function: Any, args: Any, kwargs: Any) -> None:
    out = kwargs.pop("out", None)
    if out is None or kwargs:
        recording.refuse(f"memory was asked for (by {getattr(function, '__name__', function)})")

    def step(to: Any, *inputs: Any) -> None:
        function(*inputs, out=to)

    recording.do(getattr(function, "__name__", "?"), step, out.held, *map(_unwrapped, args))


class _Add:
    """`add`, with its `at`."""

    __call__ = staticmethod(_wrapping(np.add))
    at = staticmethod(_wrapping(np.add.at))


class ArrayModule:
    """Stands for the module `cupy`: NumPy's functions on device arrays, on guarded memory."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found  # dtypes and constants
        return _wrapping(found)

    @staticmethod
    def empty(shape: Any, dtype: Any = float) -> DeviceArray:
        """Uninitialised, that is NaN, and a page that cannot be touched behind it."""
        recording.refuse("memory was asked for")
        return DeviceArray(memory.guarded(shape, dtype))

    @staticmethod
    def zeros(shape: Any, dtype: Any = float) -> DeviceArray:
        recording.refuse("memory was asked for")
        array = memory.guarded(shape, dtype)
        array[...] = 0
        return DeviceArray(array)

    @staticmethod
    def asarray(values: Any, dtype: Any = None) -> DeviceArray:
        """From the host (a copy), or as it is."""
        if isinstance(values, DeviceArray):
            same = dtype is None or values.held.dtype == dtype
            return values if same else DeviceArray(values.held.astype(dtype))
        recording.refuse("memory was asked for")
        values = np.asarray(values, dtype)
        array = memory.guarded(values.shape, values.dtype)
        array[...] = values
        return DeviceArray(array)

    array = asarray
    add = _Add()
