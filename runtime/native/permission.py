"""Asking the operating system for registers that it does not keep for every process.

Knows system calls.  Must not know what the registers are for.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache

ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA, SYS_ARCH_PRCTL = 0x1023, 18, 158  # Linux on x86-64: asm/prctl.h


@lru_cache(maxsize=1)
def permitted() -> bool:
    """Asks, once, to keep matrix registers for this process: without that, their first use would end it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return int(ctypes.CDLL(None).syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA)) == 0
    except (OSError, AttributeError):
        return False
