"""StateRow messages taken apart by hand. The rule: what is not as this release writes it goes to the decoder.

A restore reads hundreds of thousands; between device id and offset the rows of one class are equal byte for byte.
"""

from __future__ import annotations

from typing import Any

from telemetry import codec, schemas
from telemetry.codec import zigzag

#: Of a 64-bit integer in Avro's variable-length encoding.
_VARINT_MAX = 10


def text(value: str) -> bytes:
    """An Avro string."""
    data = value.encode()
    return zigzag(len(data)) + data


class Splitter:
    """Remembers what stood between device id and offset in the last row that the decoder has read."""

    def __init__(self) -> None:
        self._head = schemas.header("state_row")
        self._middle = b""
        self._names = ("", "")

    def split(self, value: bytes) -> tuple[str, str, bytes, bytes]:
        """Catalogue entry, state id, row and bank of a message.

        Raises
        ------
        codec.RefusedError : it is no StateRow.
        """
        if self._middle and value.startswith(self._head):
            try:
                found = self._quickly(value)
            except IndexError:
                found = None
            if found is not None:
                return (*self._names, *found)
        record = codec.decode("state_row", value)
        self._learn(value, record)
        return record["catalog"], record["state_id"], record["row"], record["bank"]

    def _learn(self, value: bytes, record: dict[str, Any]) -> None:
        middle = text(record["catalog"]) + text(record["state_id"])
        if value.startswith(self._head + text(record["device_id"]) + middle):
            self._middle, self._names = middle, (record["catalog"], record["state_id"])

    def _quickly(self, value: bytes) -> tuple[bytes, bytes] | None:
        """Row and bank; None = not of the usual form, which the decoder may refuse or read.

        Raises
        ------
        IndexError : it ends too early.
        """
        at = len(self._head)
        twice = value[at]
        end = at + 1 + (twice >> 1)
        if twice & 0x81 or not value[at + 1 : end].isascii() or not value.startswith(self._middle, end):
            return None
        at = end + len(self._middle)
        last = at
        while value[last] & 0x80:
            last += 1
        size, first = _length(value, last + 1)
        bank_size, bank_first = _length(value, first + size)
        if last - at >= _VARINT_MAX - 1 or size < 0 or bank_size < 0 or bank_first + bank_size != len(value):
            return None
        return value[first : first + size], value[bank_first:]


def _length(value: bytes, at: int) -> tuple[int, int]:
    """(length, offset behind it); -1 = it is negative, or longer than any."""
    result = shift = 0
    for i in range(4):
        byte = value[at + i]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (-1 if result & 1 else result >> 1), at + i + 1
        shift += 7
    return -1, at
