"""Which memory the buffers of a plan are.

Knows homes and offsets.  Must not know who touches memory, or when.
"""

from __future__ import annotations

from graphc.plan import Buffer, Plan, Role

Place = tuple[object, int, int]  # some memory, and a range of bytes of it


def memory_of(plan: Plan, buffer: Buffer) -> Place:
    """Temporaries share the arena; everything else has memory of its own."""
    home = plan.home(buffer)
    start = plan.offsets[home] if home.role is Role.TEMPORARY else 0
    return "arena" if home.role is Role.TEMPORARY else home, start, start + max(home.bytes, 1)


def overlap(a: Place, b: Place) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
