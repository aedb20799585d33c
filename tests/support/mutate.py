"""Mutations of valid bytes, by a seed, with some knowledge of the format: varints, lengths, blocks, headers."""

from __future__ import annotations

import random

from telemetry.codec import zigzag

#: Numbers at the edges of what the formats hold.
EDGES = (
    0, 1, -1, 2, 63, 64, -64, -65, 127, 128, 8191, 8192, 65_535, 65_536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1,
    2**32, 10**12, 2**53, 2**61, 2**62 - 1, 2**62, 2**63 - 1, -(2**63), -(2**62),
)  # fmt: skip
BYTES = (0, 1, 2, 0x3F, 0x40, 0x7E, 0x7F, 0x80, 0x81, 0xC3, 0xFE, 0xFF)


class Mutator:
    """Makes inputs from a corpus, which grows with what behaves in a new way.

    Parameters
    ----------
    size_max : longer inputs are cut.
    """

    def __init__(self, corpus: list[bytes], seed: int, size_max: int) -> None:
        self.corpus = list(corpus)
        self._seen: set[object] = set()
        self._random = random.Random(seed)
        self._size_max = size_max

    def keep_if_new(self, data: bytes, behaviour: object) -> None:
        """Put an input into the corpus when nothing has behaved like it."""
        if behaviour not in self._seen and len(self.corpus) < 20_000:
            self._seen.add(behaviour)
            self.corpus.append(data)

    def __call__(self) -> bytes:
        r = self._random
        data = bytearray(r.choice(self.corpus))
        for _ in range(1 if r.random() < 0.5 else r.randrange(2, 6)):
            self._change(data)
        return bytes(data[: self._size_max])

    def _change(self, data: bytearray) -> None:
        r = self._random
        at = r.randrange(len(data) + 1) if r.random() < 0.5 else r.randrange(min(len(data), 80) + 1)
        kind = r.randrange(10)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << r.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = r.choice(BYTES)
        elif kind == 2:
            data[at:at] = bytes(r.choice(BYTES) for _ in range(r.randrange(1, 9)))
        elif kind == 3:
            del data[at : at + r.randrange(1, 9)]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            data[at : at + r.randrange(4)] = zigzag(
                r.choice(EDGES) + r.randrange(-1, 2) if r.random() < 0.3 else r.choice(EDGES)
            )
        elif kind == 6:
            data[at:at] = b"\x80" * r.randrange(1, 12)
        elif kind == 7:
            other = r.choice(self.corpus)
            cut = r.randrange(len(other) + 1)
            data[at:] = other[cut:]
        elif kind == 8:
            size = r.randrange(1, 64)
            data[at:at] = data[at : at + size] * r.randrange(1, 4)
        else:
            data += r.randbytes(r.randrange(1, 16))
