"""What every detector asks of the arrays that it is handed. The rule: a wrong array is refused before any row
is learnt, and the input reaches a kernel read-only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.protocol import TOP, Block, Scores


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """A view that a kernel cannot be compiled to write to: also one array type, hence one compilation."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_block(block: Block, d: int, out: Scores) -> int:
    """The block's number of rows.

    Raises
    ------
    ValueError : the arrays disagree in length, are not d columns wide, not of the protocol's types, not
        C-contiguous, or `out` has less room than the block has rows.
    """
    n = len(block.slots)
    values, slots = block.values, block.slots
    if values.shape != (n, d) or values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError(f"values must be C-contiguous float32 ({n}, {d}), not {values.dtype} {values.shape}")
    if slots.dtype != np.int32 or slots.ndim != 1 or not slots.flags.c_contiguous:
        raise ValueError(f"slots must be contiguous int32 (n,), not {slots.dtype} {slots.shape}")
    if block.ts_us.shape != (n,) or block.ts_us.dtype != np.int64:
        raise ValueError(f"ts_us must be int64 ({n},), not {block.ts_us.dtype} {block.ts_us.shape}")
    if len(out.surprise) < n or out.column.shape[1:] != (TOP,):
        raise ValueError(f"no room for {n} scores of {TOP} columns in {out.column.shape}")
    return n


_NOBODY = np.zeros(0, np.float32)


def alarms(block: Block) -> NDArray[np.float32]:
    """The block's alarm, read-only; float32 (0,) where nobody was asked.

    Raises
    ------
    ValueError : it is not float32 and one for each row.
    """
    alarm = block.alarm
    if alarm is None:
        return readonly(_NOBODY)
    if alarm.shape != (len(block),) or alarm.dtype != np.float32:
        raise ValueError(f"alarm must be float32 ({len(block)},), not {alarm.dtype} {alarm.shape}")
    return readonly(np.ascontiguousarray(alarm))


def check_states(slots: NDArray[np.int32], states: NDArray[np.uint8], nbytes: int) -> None:
    """Raises
    ------
    ValueError : the matrix has not the shape (len(slots), nbytes) or is not of bytes.
    """
    if states.shape != (len(slots), nbytes) or states.dtype != np.uint8:
        raise ValueError(f"states must be uint8 ({len(slots)}, {nbytes}), not {states.dtype} {states.shape}")


def grown(rows: NDArray[Any], n_slots: int) -> NDArray[Any]:
    """`rows` with room for at least n_slots, new ones zero; a quarter more than before at least, so that
    growing one by one stays linear."""
    have = len(rows)
    if n_slots <= have:
        return rows
    more = np.zeros((max(n_slots, have + have // 4), *rows.shape[1:]), rows.dtype)
    more[:have] = rows
    return more


def limits_array(pairs: Sequence[Sequence[float | None]]) -> NDArray[np.float32]:
    """float32 (2, d): lowest and highest of each column, infinite where there is none."""
    low = [-np.inf if pair[0] is None else pair[0] for pair in pairs]
    high = [np.inf if pair[1] is None else pair[1] for pair in pairs]
    return np.array([low, high], np.float32).reshape(2, len(pairs))


def clear(out: Scores, n: int) -> None:
    """Write "none" over the first n opinions."""
    out.surprise[:n] = np.nan
    out.column[:n] = -1
    out.expected[:n] = np.nan
    out.share[:n] = np.nan
