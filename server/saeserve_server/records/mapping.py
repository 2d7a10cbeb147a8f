"""Files mapped into memory, without a descriptor for each.

`mmap.mmap` keeps one as long as the mapping lasts (from Python 3.13 on it can be told not to), and an index is dozens
of files, with many sources thousands: they would take those that connections and a new worker need.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from typing import BinaryIO

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,  # off_t, on the 64-bit systems that torch is built for
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


def map_file(file: BinaryIO, size: int, advice: int) -> memoryview:
    """The first `size` bytes of a file, more than none, read-only. They stay mapped while anything refers to them.

    `advice` is one of `mmap.MADV_…`. Raises OSError.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number or errno.ENOMEM), file.name)
    pages = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(pages, _libc.munmap, address, size).atexit = False  # others may still read then
    _libc.madvise(address, size, advice)
    return memoryview(pages).toreadonly()
