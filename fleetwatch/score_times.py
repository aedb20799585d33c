"""A file's times to microseconds since the epoch. The rule: a file's first time tells how it writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from telemetry.codec import micros

#: Times stay far from the ends of 64 bits.
TIME_US_MAX = 1 << 59
#: A number of at least so much is a time in this many ticks a second; a smaller one is seconds.
_UNITS = ((1e17, 10**9), (1e14, 10**6), (1e11, 10**3))


def ticks_per_s(number: float) -> int:
    """The unit of a numeric time, by its size: ns, us, ms since the epoch, or seconds."""
    return next((ticks for least, ticks in _UNITS if abs(number) >= least), 1)


def instant(text: str) -> int:
    """Microseconds of an ISO 8601 time; without a zone it is UTC.

    Raises
    ------
    ValueError : it is none.
    """
    moment = datetime.fromisoformat(text.strip().replace("/", "-"))
    return micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _number(text: str) -> float | int:
    """An int where it is one, since a float cannot hold nanoseconds. Raises ValueError."""
    if "_" in text:
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return float(text)


class Clock:
    """Reads the times of one file, piece by piece."""

    def __init__(self) -> None:
        self._ticks = 0  # of a second, of numeric times; 0 = not seen yet
        self._numeric: bool | None = None  # text: whether times are numbers

    def read(self, column: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(int64 us, whether there is a time) of each cell of an Arrow array.

        Raises
        ------
        TypeError : cells of this type are no times.
        """
        kind = column.type
        if pa.types.is_dictionary(kind):
            return self.read(column.dictionary_decode())
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            us = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
            return _checked(us.fill_null(0).to_numpy(zero_copy_only=False), column)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._text(column)
        if pa.types.is_null(kind):
            return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return self._numbers(column)
        raise TypeError(str(kind))

    def _text(self, column: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if self._numeric is None:
            first = next((text for text in column.to_pylist() if text and text.strip()), None)
            if first is None:
                return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
            self._numeric = _is_number(first)
        kinds = (pa.int64(), pa.float64()) if self._numeric else (pa.timestamp("us"), pa.timestamp("us", "UTC"))
        for kind in kinds:
            try:
                return self.read(column.cast(kind))
            except pa.ArrowInvalid:
                continue
        return self._cells(column.to_pylist())

    def _numbers(self, column: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if pa.types.is_integer(column.type):
            try:
                exact = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:  # beyond int64
                return self._numbers(column.cast(pa.float64(), safe=False))
            if not self._ticks:
                self._see(exact[column.is_valid().to_numpy(zero_copy_only=False)])
            ticks = self._ticks or 1
            ok = np.abs(exact.astype(np.float64)) <= TIME_US_MAX / 1e6 * ticks
            exact = np.where(ok, exact, 0)
            us = exact * (10**6 // ticks) if ticks <= 10**6 else exact // (ticks // 10**6)
            return _checked(us, column, ok)
        floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if not self._ticks:
            self._see(floats[np.isfinite(floats)])
        us = floats * (1e6 / (self._ticks or 1))
        ok = np.abs(us) <= TIME_US_MAX
        return _checked(np.rint(np.where(ok, us, 0)).astype(np.int64), column, ok)

    def _see(self, numbers: NDArray[Any]) -> None:
        if len(numbers):
            self._ticks = ticks_per_s(float(numbers[0]))

    def _cells(self, cells: list[str | None]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """One by one: what Arrow cannot read as a whole."""
        us, ok = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
        for i, text in enumerate(cells):
            try:
                us[i] = self._cell(text or "")
                ok[i] = abs(us[i]) <= TIME_US_MAX
            except (ValueError, OverflowError):
                continue
        us[~ok] = 0
        return us, ok

    def _cell(self, text: str) -> int:
        if not self._numeric:
            return instant(text)
        number = _number(text.strip())
        self._ticks = self._ticks or ticks_per_s(number)
        if isinstance(number, int):
            return number * 10**6 // self._ticks
        return round(number * 1e6 / self._ticks)


def _is_number(text: str) -> bool:
    try:
        _number(text.strip())
    except ValueError:
        return False
    return True


def _checked(
    us: NDArray[np.int64], column: Any, ok: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    there = pc.is_valid(column).to_numpy(zero_copy_only=False) & (np.abs(us) <= TIME_US_MAX)
    if ok is not None:
        there &= ok
    return np.where(there, us, 0), there
