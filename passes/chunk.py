"""Splits a step's batch into chunks that threads run from input to partial gradient without waiting for each other.

A small model gains nothing when each of its kernels is split among threads: activations cross cores and threads meet after
every kernel.  Here everything that works row by row of the batch (`batch_axis`) becomes the body of a `scan` without carries
over chunks of the batch; sums over the batch (weight gradients, losses) become partial sums, one per chunk, that are added up
after it, in order.  How many chunks there are depends on sizes alone, so results are the same bits for any number of threads.
Must not know threads, or which op is which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from graphc.ir import Graph, Node, make, rewrite
from graphc.op import REGISTRY, Kind
from graphc.ops.contractions import split_spec
from graphc.ops.control import results_of
from graphc.ops.loops import formal
from graphc.origins import building, phase
from graphc.symbols import Tensor, constant
from graphc.types import TensorType, int64

from .batch_axis import Split, compute_parts, order_of_parts
from .batch_cost import contraction_nanoseconds, element_nanoseconds, nanoseconds
from .parts import counted, is_counted, joined, sequence

EMBEDDED = 16  # constants up to this many elements stay inside the body
MOST_CHUNKS = 16
LEAST_HALF = 4e3  # nanoseconds of one of two chunks: less is not worth meeting twice
LEAST_WORK = 22e3  # of one of more of them
SHARE_OF_SUMS = 0.12  # of the work, that writing and adding up partial sums may take
SHARE_INSIDE = 0.7  # of the step's work, that must be done by chunks
SUMS = 1 << 20  # bytes of partial sums that stay in a cache
MOST_SUMS = 1 << 21  # of more than two chunks, of which whoever is free takes the last: they are read once, in order
BYTES_PER_NS = 20.0
ATTEMPTS = 3  # different opinions about which axes are the batch

Batch = Mapping[Node, int]  # inputs, with the axis that is the batch of each


# -- building --------------------------------------------------------------------------------------------------------


def build(split: Split, wanted: Sequence[Node]) -> Graph:
    """The step with the scan in it.  wanted: what the scan must give."""
    with building(phase, "forward"):
        scan = make_scan(split, wanted)
        known: dict[Node, Node] = {}
        for node, result in zip(wanted, results_of(scan), strict=True):
            known[node] = combined(node, result).node if node in split.sums else \
                joined(result, node, (split.inside[node],), (split.count,))
    new = rewrite(split.graph.roots, lambda node, inputs: None, known)
    return split.graph.with_roots([new[r] for r in split.graph.roots])


def make_scan(split: Split, wanted: Sequence[Node]) -> Node:
    """The loop over chunks, which reads parts of what is given, other tensors as a whole, and where it counts its number."""
    order = order_of_parts(split, wanted)
    sequences = {node: split.part_type(node, split.inside[node]) for node in order if split.parts[node].given}
    captures = {i: i.type for node in order for i, cut in zip(split.parts[node].operands, split.parts[node].cut, strict=True)
                if not cut and not is_embedded(i)}
    number = formal(0, TensorType(int64, ()))
    counts = [n for n in order if n.op.kind is Kind.SOURCE and n not in sequences]
    numbers = [number] if any(is_counted(split, n) for n in counts) else []
    given = [formal(k, type_) for k, type_ in enumerate((*sequences.values(), *captures.values()), len(numbers))]
    new = dict(zip(sequences, given, strict=False))
    new.update({n: counted(split, n, number) for n in counts})
    compute_parts(split, wanted, new, dict(zip(captures, given[len(sequences):], strict=True)))
    operands = [*(constant(np.arange(split.count, dtype=np.int64)).node for _ in numbers),
                *(sequence(n, (split.inside[n],), (split.count,)) for n in sequences), *captures]
    attributes = {"carries": 0, "sequences": len(numbers) + len(sequences), "length": split.count, "reverse": False}
    return make(REGISTRY["scan"], operands, attributes, (Graph((*numbers, *given), tuple(new[w] for w in wanted)),))


def is_embedded(node: Node) -> bool:
    """Whether a chunk holds its own copy of a constant."""
    return "value" in node.attributes and node.attributes["value"].size <= EMBEDDED


def wanted_outside(split: Split) -> list[Node]:
    """What the rest of the step reads of the chunks."""
    computed = {n for n in split.parts if n not in split.free}
    found: dict[Node, None] = {}
    for node in split.graph.nodes:
        if node not in computed and node not in split.free:
            found.update({i: None for i in node.inputs if i in computed})
    found.update({r: None for r in split.graph.roots if r in computed})
    return [n for n in found if n in split.sums or not split.cheap(n)]


def combined(node: Node, parts: Tensor) -> Tensor:
    """What chunks gave, one entry each, as the whole."""
    op = node.op if node.op.kind is Kind.REDUCE else REGISTRY["sum"]
    return Tensor(make(op, (parts.node,), {"axes": (0,)}))


# -- whether, and how many --------------------------------------------------------------------------------------------


def batches(graph: Graph, named: Sequence[Batch]) -> Iterator[Batch]:
    """Which axes of which inputs may be the batch: those of one name first, then first axes of one size.

    named   axes of which the user said that they are the same
    """
    seen: list[Batch] = []
    sizes: dict[int, int] = {}
    for node in graph.inputs:
        if node.shape:
            sizes[int(node.shape[0])] = sizes.get(int(node.shape[0]), 0) + 1
    guesses: list[Batch] = []
    for size in sorted(sizes, key=lambda s: (-sizes[s], -s)):
        axes = {n: [k for k, s in enumerate(n.shape) if s == size] for n in graph.inputs}
        for place in range(max(map(len, axes.values()), default=0)):  # the first of several such axes of an input, or another
            guesses.append({n: found[min(place, len(found) - 1)] for n, found in axes.items() if found})
    for batch in (*named, *guesses):
        if batch and batch not in seen and len(seen) < ATTEMPTS:
            seen.append(batch)
            yield batch


def computed_parts(split: Split, wanted: Sequence[Node]) -> list[Node]:
    """The nodes of which a chunk computes its part for the wanted ones; what it is given is computed before, if at all."""
    return [n for n in order_of_parts(split, wanted) if not split.parts[n].given]


def part_nanoseconds(split: Split, node: Node, count: int) -> float:
    """About how long one thread takes for the part of a node that one of `count` chunks computes.

    More than its share of the whole: every chunk reads a weight anew, and few rows fill no tile.
    """
    if node.op.kind is Kind.LOOP:
        inner = split.bodies[node]
        steps = (part_nanoseconds(inner, n, count) for n in computed_parts(inner, node.graphs[0].outputs))
        return float(node.attributes["length"]) * sum(steps)
    if node.op.kind is not Kind.CONTRACT:
        return element_nanoseconds(node) / count
    left, right, _ = split_spec(node.attributes["spec"])
    cut = next(of[split.inside[i]] for of, i, own in zip((left, right), node.inputs, split.parts[node].cut, strict=True) if own)
    return contraction_nanoseconds(node, {cut: count})


def number_of_chunks(work: Callable[[int], float], sums: int, batch: int) -> int:
    """How many chunks pay, 1 where none do: as many as cost little more than two.

    work   nanoseconds of one of so many chunks
    sums   bytes of partial sums that each of them leaves
    """
    best, count, adding = 1, 2, sums / BYTES_PER_NS
    total = 2 * work(2)
    while count <= MOST_CHUNKS and batch % count == 0 and batch >= 2 * count \
            and count * sums <= (SUMS if count == 2 else MOST_SUMS) and count * adding <= SHARE_OF_SUMS * total:
        each = total / 2 if count == 2 else work(count)
        least = LEAST_HALF if count == 2 else LEAST_WORK
        if each < least or count * (each + adding) > (1 + SHARE_OF_SUMS) * total + 2 * adding:
            break
        best, count = count, 2 * count
    return best


def chunks_for(split: Split, wanted: Sequence[Node], batch: int) -> tuple[int, str]:
    """How many chunks pay; 1, and why, where none do."""
    inside = computed_parts(split, wanted)
    whole = sum(map(nanoseconds, inside))
    sums = sum(int(n.type.bytes) for n in wanted if n in split.sums)
    if whole < SHARE_INSIDE * split.work:
        return 1, f"{whole / split.work:.0%} of the work is row by row of it{first_between_rows(split)}"
    if not split.sums:
        return 1, "nothing is summed over it"
    few = "a chunk would be too short" if whole / 2 < LEAST_HALF else "partial sums would cost more than chunks save"
    return number_of_chunks(lambda count: sum(part_nanoseconds(split, n, count) for n in inside), sums, batch), few


def first_between_rows(split: Split) -> str:
    """Words about the first node that mixes rows of the batch."""
    for node in split.graph.nodes:
        if node not in split.parts and node not in split.free and any(i in split.inside for i in node.inputs):
            where = f" at {node.origins[0]}" if node.origins else ""
            return f"; {node.op.name}{where} is the first that is not"
    return ""


def chunk(graph: Graph, named: Sequence[Batch] = ()) -> tuple[Graph, str]:
    """The step with its batch in chunks, or as it is where that does not pay; and words about it.

    named   axes of inputs that are one open size, for each such size; other axes are guessed
    """
    trained = sum(v.type.bytes for c, v in graph.updates if c.trainable)
    if not graph.updates:
        return graph, ""
    if 2 * trained > SUMS:
        return graph, "the batch stays whole: partial sums of so many parameters would not stay in a cache"
    work = sum(map(nanoseconds, graph.nodes))
    if work < 2 * LEAST_HALF:
        return graph, "the batch stays whole: the step is too short"
    why = ""
    for batch in batches(graph, named):
        size = next(int(node.shape[axis]) for node, axis in batch.items())
        count = max(2, number_of_chunks(lambda n: work / n, trained, size))  # as if chunks did all work and gave every gradient
        for _ in range(2):
            if size % count or size < 2 * count:
                why = why or f"{size} rows have no two equal parts"
                break
            split = Split.of(graph, batch, count)
            wanted = wanted_outside(split)
            chosen, words = chunks_for(split, wanted, size)
            if chosen == count:
                axes = ", ".join(f"axis {axis} of {node.attributes['name']}" for node, axis in batch.items())
                return build(split, wanted), f"the batch of {size} ({axes}) in {count} chunks"
            if chosen == 1:
                why = why or words
                break
            count = chosen
    return graph, f"the batch stays whole: {why or 'no input has a first axis'}"
