"""CONTRACT kernels: a contraction, and what happens to its finished tiles.

Knows which kind of epilogue a body asks for, how operands that are no memory are computed while they are packed, and
how much scratch memory that takes.  Must not know how tiles are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from graphc.index import Index, unravel
from graphc.ir import Node
from graphc.labels import labels_of
from graphc.op import Kind
from graphc.plan import Kernel, align

from .contract import Contraction, Hidden, Load, choose_road, emit_contraction, lanes_along_k, scratch_bytes
from .emit import Function, Value
from .epilogues import Epilogue, base_pointer, computed_operands, contraction_in, contraction_node, into_axis
from .loops import Work, bind, scalar_cost, vector_lanes
from .outline import outlined
from .scopes import Scope
from .target import Target
from .tilefolds import FoldingEpilogue, TileFolds, fold_scratch, tile_folds

if TYPE_CHECKING:
    from .row_epilogues import RowEpilogue

LONG = 12  # instructions an element from which a tile is finished beside the next one's sums


def by_vectors(kernel: Kernel, target: Target) -> bool:
    """Whether a finished tile may be worked on vector by vector: maps only, as wide as the contraction's elements."""
    node = contraction_node(kernel)
    return (not tile_folds(kernel) and prod(contraction_in(kernel)[0].n) > 1
            and vector_lanes(kernel, target) == target.lanes(node.dtype.itemsize))


def overlaps(kernel: Kernel, target: Target) -> bool:
    """Whether a tile's epilogue runs beside the multiply-adds of the next tile: updates in place, bound by divisions.

    An activation is bound by the same multiply-add units as the sums, so that nothing is gained.  Where a mask leaves products
    out, the next tile's sums may be too short to finish a tile beside them.
    """
    node = contraction_node(kernel)
    size = node.type.size
    return bool(kernel.in_place) and not node.attributes.get("within") and by_vectors(kernel, target) and sum(
        scalar_cost(n) for n in kernel.body.nodes if n.op.kind is Kind.MAP and n.type.size == size) >= LONG


def multiplies_pieces(kernel: Kernel, target: Target) -> str:
    """What multiplies the kernel's contraction in pieces of bfloat16: nothing where it is multiplied as it is."""
    node = contraction_node(kernel)
    blocking = choose_road(contraction_in(kernel)[0], target, kernel.body.outputs == (node,), computed_operands(node),
                           tile_folds(kernel).by_row, overlaps(kernel, target)).blocking
    return "" if not blocking.pieces else "in pairs of bfloat16" if blocking.pairs else "on the matrix unit"


def tile_bytes(kernel: Kernel, target: Target) -> int:
    """Bytes of private memory that the contraction itself needs on each thread."""
    node = contraction_node(kernel)
    load_a, load_b = computed_operands(node)
    return align(scratch_bytes(contraction_in(kernel)[0], target, plain=kernel.body.outputs == (node,), load_a=load_a,
                               load_b=load_b, whole_rows=tile_folds(kernel).by_row, overlap=overlaps(kernel, target)))


def contraction_scratch(kernel: Kernel, target: Target) -> tuple[int, int]:
    """(bytes of private memory per thread, bytes shared by all threads)."""
    private, shared = fold_scratch(kernel, target)
    return tile_bytes(kernel, target) + private, shared


def operand_loads(w: Work, node: Node, c: Contraction, folds: TileFolds) -> tuple[Load | None, Load | None]:
    """The hooks that compute operands which are no memory, element by element while they are packed; of A and of B."""
    computed = computed_operands(node)
    if not any(computed):
        return None, None
    labels = labels_of(node.attributes["spec"])
    operands = node.inputs[::-1] if labels.turned else node.inputs
    batch, m, n = contraction_in(w.kernel)[3]  # some of n may be a batch
    along_k = lanes_along_k(c, w.target, w.kernel.body.outputs == (node,), computed,
                            folds.by_row, overlaps(w.kernel, w.target))

    def hook(side: int, own: str, lines: str, sizes: tuple[int, ...]) -> Load | None:
        groups = ((batch, c.batch), (lines, sizes), (labels.k, c.k))
        return operand_load(w, operands[side], own, groups, along_k[side]) if computed[side] else None

    return hook(0, labels.left, m, c.m), hook(1, labels.right, n, c.n)


def operand_load(w: Work, operand: Node, own: str, groups: Sequence[tuple[str, tuple[int, ...]]], along_k: bool) -> Load:
    e = w.elements
    item, line, k = variables = [Index.variable(f"packed {name}", prod(sizes))
                                 for name, (_, sizes) in zip(("item", "line", "k"), groups, strict=True)]
    places: dict[str, Index] = {}
    for (labels, sizes), variable in zip(groups, variables, strict=True):
        places.update(zip(labels, unravel(variable, sizes), strict=True))
    into_axis(w.kernel, places)
    key = e.key(operand, [places[label] for label in own])
    lane = next(iter((k if along_k else line).variables()), None)

    def load(f: Function, line_at: Value, k_at: Value, item_at: Value, lanes: int) -> Value:
        bindings = {**bind(item, item_at), **bind(line, line_at), **bind(k, k_at)}
        outside, e.lanes = e.lanes, lanes or e.lanes
        with e.inside(Scope(bindings, lane if lanes else None)):
            value = e.emit([key])[0]
            value = e.broadcast(value) if lanes else value
        e.lanes = outside
        return value

    return load


def hidden_tiles(kernel: Kernel, labels: tuple[str, str, str], epilogue: Epilogue | RowEpilogue | None) -> Hidden | None:
    """Which tiles a mask hides, and what their outputs are."""
    out = contraction_node(kernel).attributes["spec"].split("->")[1]
    names = {group[-1:]: name for group, name in zip(labels[1:], "mn", strict=True)}
    if not kernel.ends or tile_folds(kernel) or any(out[a] not in names for end in kernel.ends for a in end[:2]):
        return None
    numbers = kernel.ends[0].numbers
    if any(end.numbers != numbers for end in kernel.ends):
        return None
    diagonals = tuple((names[out[end.first]], names[out[end.second]], end.offset) for end in kernel.ends)
    return Hidden(diagonals, partial(epilogue.fill, numbers) if numbers and isinstance(epilogue, Epilogue) else None)


def emit_contract(w: Work) -> None:
    """A contraction, stored as it is, or followed by maps and folds over its result, tile by tile."""
    f, kernel = w.f, w.kernel
    node = contraction_node(kernel)
    c, a, b, labels = contraction_in(kernel)
    if 0 in kernel.space:
        return
    computed = computed_operands(node)
    pointers = [Value("null", "ptr") if load else base_pointer(w, read, c.dtype)
                for load, read in zip(computed, (a, b), strict=True)]
    folds = tile_folds(kernel)
    plain = kernel.body.outputs == (node,)
    epilogue: Epilogue | RowEpilogue | None = None
    if folds.by_row:
        from .row_epilogues import RowEpilogue  # with the first of them, as all that works on rows

        epilogue = RowEpilogue(w, node, c, tile_bytes(kernel, w.target))
    elif not plain:
        epilogue = FoldingEpilogue(w, node, c, labels) if folds else Epilogue(w, node, c, labels)
    load_a, load_b = operand_loads(w, node, c, folds)
    hidden = hidden_tiles(kernel, labels, epilogue)
    care = emit_contraction(f, w.target, c, *pointers, scratch=w.private, thread=w.threads.thread, threads=w.threads.count,
                             c_pointer=w.writes[0] if plain else None, finish=epilogue.finish if epilogue else None,
                             prefetch=epilogue.prefetch if isinstance(epilogue, Epilogue) and epilogue.streams else None,
                             load_a=load_a, load_b=load_b, whole_rows=folds.by_row,
                             vector=(epilogue.vector if isinstance(epilogue, Epilogue) and by_vectors(kernel, w.target)
                                     else None), overlap=overlaps(kernel, w.target), past=w.writes[0].name in w.elements.past,
                             hidden=hidden)
    if epilogue and folds:
        with outlined(f, "complete", when=care < 2):
            epilogue.complete()
    if not f.has_vectors:
        f.care = min(f.care, care)
