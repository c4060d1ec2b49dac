"""CONTRACT kernels: a contraction, and what happens to its finished tiles.

Knows which kind of epilogue a body asks for, and how much scratch memory it takes.  Must not know how it works.
"""

from __future__ import annotations

from graphc.plan import Kernel, align

from .contract import emit_contraction, scratch_bytes
from .epilogues import Epilogue, base_pointer, contraction_node, contraction_of
from .loops import Work
from .target import Target
from .tilefolds import FoldingEpilogue, RowEpilogue, fold_scratch, tile_folds


def tile_bytes(kernel: Kernel, target: Target) -> int:
    """Bytes of private memory that the contraction itself needs on each thread."""
    c = contraction_of(contraction_node(kernel))[0]
    return align(scratch_bytes(c, target, whole_rows=tile_folds(kernel).by_row))


def contraction_scratch(kernel: Kernel, target: Target) -> tuple[int, int]:
    """(bytes of private memory per thread, bytes shared by all threads)."""
    private, shared = fold_scratch(kernel, target)
    return tile_bytes(kernel, target) + private, shared


def emit_contract(w: Work) -> None:
    """A contraction, stored as it is, or followed by maps and folds over its result, tile by tile."""
    f, kernel = w.f, w.kernel
    node = contraction_node(kernel)
    c, a, b, labels = contraction_of(node)
    if 0 in kernel.space:
        return
    pointers = base_pointer(w, a, c.dtype), base_pointer(w, b, c.dtype)
    folds = tile_folds(kernel)
    plain = kernel.body.outputs == (node,)
    epilogue: Epilogue | RowEpilogue | None = None
    if folds.by_row:
        epilogue = RowEpilogue(w, node, c, tile_bytes(kernel, w.target))
    elif not plain:
        epilogue = FoldingEpilogue(w, node, c, labels) if folds else Epilogue(w, node, c, labels)
    emit_contraction(f, w.target, c, *pointers, scratch=w.private, thread=w.threads.thread, threads=w.threads.count,
                     c_pointer=w.writes[0] if plain else None, finish=epilogue.finish if epilogue else None,
                     prefetch=epilogue.prefetch if isinstance(epilogue, Epilogue) and epilogue.streams else None,
                     whole_rows=folds.by_row)
    if epilogue:
        epilogue.complete()
