"""What a state row is made of. The rule: a piece is read with the meaning that it was written with, or not at all.

A row is its stages' bytes end to end. Its state id names each piece by a hash of all that gives the bytes their
meaning, and by its size, so that a worker of other settings finds the pieces that still mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage's share of a row. digest : 8 hex digits."""

    digest: str
    nbytes: int

    @classmethod
    def of(cls, nbytes: int, *meaning: str) -> Piece:
        return cls(hashlib.sha256("\n".join(meaning).encode()).hexdigest()[:8], nbytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """pieces : of the row, the device's own first. bank : of the window-rate detectors' bytes, kept apart."""

    pieces: tuple[Piece, ...]
    bank: tuple[Piece, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def bank_nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.bank)

    @property
    def state_id(self) -> str:
        """``d41d8cd9-128.900150983-664+...``: equal only for states that mean the same."""
        row, bank = (".".join(f"{p.digest}-{p.nbytes}" for p in some) for some in (self.pieces, self.bank))
        return f"{row}+{bank}" if bank else row

    @classmethod
    def parse(cls, state_id: str) -> Layout | None:
        """The layout that a state id names; None = not of this form."""
        row, _, bank = state_id.partition("+")
        try:
            parts = [tuple(Piece(*_split(p)) for p in some.split(".") if p) for some in (row, bank)]
        except ValueError:
            return None
        return cls(*parts) if parts[0] else None


def _split(text: str) -> tuple[str, int]:
    digest, dash, nbytes = text.partition("-")
    if len(digest) != 8 or not dash or not nbytes.isascii() or not nbytes.isdigit():
        raise ValueError(text)
    return digest, int(nbytes)


def shared(ours: Sequence[Piece], theirs: Sequence[Piece]) -> list[tuple[int, int]]:
    """(number of our piece, where it begins in their row) of each piece that both have."""
    at = 0
    starts: dict[Piece, int] = {}
    for piece in theirs:
        if piece.nbytes:
            starts.setdefault(piece, at)
        at += piece.nbytes
    return [(i, starts[piece]) for i, piece in enumerate(ours) if piece in starts]
