"""Memory between two pages that nobody may touch: a read outside of it ends the process with SIGSEGV."""

from __future__ import annotations

import ctypes
import mmap

_PROT_NONE = 0
_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class GuardedMemory:
    """`pages` readable pages, a forbidden one before and one behind.

    Parameters
    ----------
    pages : so many bytes / page size can be held.
    """

    def __init__(self, pages: int) -> None:
        self._map = mmap.mmap(-1, (pages + 2) * _PAGE)
        self.capacity = pages * _PAGE
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + _PAGE
        for at in (self._begin - _PAGE, self._begin + self.capacity):
            if _libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(_PAGE), _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def at_end(self, data: bytes) -> int:
        """The address of a copy of the data whose last byte is the last that may be read."""
        at = self._begin + self.capacity - len(data)
        ctypes.memmove(at, data, len(data))
        return at

    def at_begin(self, data: bytes) -> int:
        """The address of a copy of the data whose first byte is the first that may be read."""
        ctypes.memmove(self._begin, data, len(data))
        return self._begin

    def view(self, data: bytes) -> memoryview:
        """The copy of `at_end` as a buffer."""
        start = _PAGE + self.capacity - len(data)
        self.at_end(data)
        return memoryview(self._map)[start : start + len(data)]
