"""Long sums of small contractions are cut into chunks, so that threads have something to share.

Knows sizes only: a contraction over k whose result is small becomes one over the chunks of k, with the chunk as a further
label of the batch, and a sum over the chunks.  How many there are never depends on the number of threads, so neither do
the bits.  Must not know how a contraction is computed, or what becomes of its result.
"""

from __future__ import annotations

from math import prod

from graphc.ir import Graph, Node, inherit, transform
from graphc.labels import Labels, labels_of
from graphc.op import Kind
from graphc.ops.contractions import LETTERS, contract
from graphc.ops.reductions import sum_
from graphc.ops.views import reshape, slice_
from graphc.symbols import Tensor

CHUNK = 512  # products of one sum in a chunk, at least: shorter ones cost more than they share
CHUNKS = 8  # of one sum, at most
WORTH = 1 << 17  # an eighth of the products, and the numbers read, from which a second thread pays
TILE_ROWS, TILE_COLUMNS = 12, 32  # about what is computed at a time: so much is not shared among threads
ENOUGH = 3  # tiles that keep threads busy


def chunks_of(batch: int, m: int, n: int, k: int, longest: int) -> int:
    """Into how many chunks the longest axis of k is cut; 1 where nothing is gained."""
    tiles = batch * min(-(-m // TILE_ROWS) * -(-n // TILE_COLUMNS), -(-m // TILE_COLUMNS) * -(-n // TILE_ROWS))
    products = batch * max(m * n, min(16 * m, 16 * n)) * k  # a row of one column fills no vector
    if tiles >= ENOUGH or products // 8 + batch * (m + n) * k < WORTH:
        return 1
    return max(1, min(CHUNKS, k // CHUNK, longest // 2))


def split_long_sums(graph: Graph) -> Graph:
    """The graph with long sums of small contractions in chunks."""
    return transform(graph, split_contraction)


def split_contraction(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    if node.op.kind is not Kind.CONTRACT or not node.dtype.is_float:
        return None
    labels = labels_of(node.attributes["spec"])
    a, b = (Tensor(i) for i in (inputs[::-1] if labels.turned else inputs))
    sizes = dict(zip(labels.left + labels.right, (*a.node.shape, *b.node.shape), strict=True))
    if not labels.k or 0 in sizes.values():
        return None
    long = max(labels.k, key=lambda x: sizes[x])
    batch, m, n, k = (prod(sizes[x] for x in group) for group in (labels.batch, labels.m, labels.n, labels.k))
    count = chunks_of(batch, m, n, k, sizes[long])
    if count < 2:
        return None
    count = next((c for c in range(count, count // 2, -1) if sizes[long] % c == 0), count)
    length = sizes[long] // count

    def part(x: Tensor, own: str, start: int, size: int) -> Tensor:
        if size == sizes[long]:
            return x
        starts = tuple(start if label == long else 0 for label in own)
        return slice_(x, starts, (1,) * len(own), tuple(size if label == long else sizes[label] for label in own))

    left, right = part(a, labels.left, 0, count * length), part(b, labels.right, 0, count * length)
    total = sum_(in_parts(left, right, labels, long, count), 0)
    rest = sizes[long] - count * length
    if rest:
        tail = contract(part(a, labels.left, count * length, rest), part(b, labels.right, count * length, rest),
                        labels.left, labels.right, labels.out)
        total = total + tail
    return inherit(total.node, node)


def in_parts(a: Tensor, b: Tensor, labels: Labels, long: str, count: int) -> Tensor:
    """A contraction of A and B with one sum for each of `count` equal parts of a label of k, along a first axis."""
    part = next(x for x in LETTERS if x not in labels.left + labels.right)

    def cut(x: Tensor, own: str) -> Tensor:
        return reshape(x, tuple(s for label, size in zip(own, x.shape, strict=True)
                                for s in ((count, int(size) // count) if label == long else (size,))))

    left, right = (own.replace(long, part + long) for own in (labels.left, labels.right))
    return contract(cut(a, labels.left), cut(b, labels.right), left, right, part + labels.out)
