"""Loads and stores at memory addresses, for compiled kernels. The rule: the caller has checked the bounds.

Arrays handed from one compiled helper to another are reference-counted at every call, which costs up to four
times the work of decoding a short frame; addresses are not. Only the decoder and the encoders use these, each
behind its own length checks, and both are fuzzed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: Options of every helper that is folded into its caller.
INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "nogil": True}


def _pair(llvm_type: Callable[[], ir.Type], numba_type: Any) -> tuple[Any, Any]:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        del typingctx, address

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            del context, signature
            return builder.load(builder.inttoptr(args[0], llvm_type().as_pointer()), align=1)

        return numba_type(types.int64), codegen

    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        del typingctx, address, value

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            del signature
            builder.store(args[1], builder.inttoptr(args[0], llvm_type().as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return load, store


load_u8, store_u8 = _pair(lambda: ir.IntType(8), types.uint8)
load_u32, store_u32 = _pair(lambda: ir.IntType(32), types.uint32)
load_u64, store_u64 = _pair(lambda: ir.IntType(64), types.uint64)
load_f32, store_f32 = _pair(ir.FloatType, types.float32)


@njit(**INLINE)
def read_zigzag(p: int, end: int) -> tuple[Any, int]:
    """An Avro (or Kafka) zigzag varint at address p. Returns (value, next address).

    The next address is -1 if the varint runs past `end`, -2 if it is longer than 10 bytes or than 64 bits.
    """
    if p >= end:
        return 0, -1
    byte = np.int64(load_u8(p))
    if byte < 0x80:  # the common one-byte case
        return (byte >> 1) ^ -(byte & 1), p + 1
    result = np.uint64(byte & 0x7F)
    shift = np.uint64(7)
    p += 1
    while p < end:
        more = np.uint64(load_u8(p))
        p += 1
        if shift == np.uint64(63) and more > np.uint64(1):
            return 0, -2
        result |= (more & np.uint64(0x7F)) << shift
        if more < np.uint64(0x80):
            return np.int64(result >> np.uint64(1)) ^ -np.int64(result & np.uint64(1)), p
        shift += np.uint64(7)
    return 0, -1


@njit(**INLINE)
def write_zigzag(p: int, value: int) -> int:
    """Write an Avro varint at address p (room for 10 bytes); returns the next address."""
    v = np.int64(value)
    u = np.uint64((v << 1) ^ (v >> 63))
    while u >= np.uint64(0x80):
        store_u8(p, np.uint8((u & np.uint64(0x7F)) | np.uint64(0x80)))
        u >>= np.uint64(7)
        p += 1
    store_u8(p, np.uint8(u))
    return p + 1


def address(buffer: Any) -> int:
    """Where a bytes-like object's memory begins. It must outlive every use of the address."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data) if len(buffer) else 0


def copy_bytes(at: int, length: int) -> bytes:
    """The `length` bytes at an address that a scan has given; its buffer must still be alive."""
    return ctypes.string_at(at, length)
