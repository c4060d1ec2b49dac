"""Views of a chunk of rows: with which attributes a view, of a chunk or of the whole, is a chunk of its result.

The index maps for the chunk and for the whole must read the same places.  Knows views and index maps.  Must not know other
kinds, or which op is which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graphc.errors import GraphError
from graphc.index import Index
from graphc.ir import Node

if TYPE_CHECKING:
    from .batch_axis import Split


def cut_view(split: Split, node: Node, along: int | None, axis: int) -> dict[str, Any] | None:
    """The attributes with which a view of a chunk of its operand (of the whole, for None) is a chunk of its result, or None."""
    small, wanted = split.part_type(node.inputs[0], along), split.part_type(node, axis)
    others = [i.type for i in node.inputs[1:]]
    for attributes in sized_for(node, axis, wanted.shape[axis]):
        try:
            fits = node.op.infer(small, *others, **attributes) == wanted
        except GraphError:
            continue
        if fits and reads_its_chunk(split, node, along, axis, attributes):
            return attributes
    return None


def sized_for(node: Node, axis: int, size: Any) -> Iterator[dict[str, Any]]:
    """The attributes as they are, and with the result's size along an axis replaced wherever it stands for that axis."""
    yield node.attributes
    rank, whole = node.type.ndim, node.shape[axis]
    yield {name: (*value[:axis], size, *value[axis + 1:])
           if isinstance(value, tuple) and len(value) == rank and value[axis] == whole else value
           for name, value in node.attributes.items()}


def reads_its_chunk(split: Split, node: Node, along: int | None, axis: int, attributes: Mapping[str, Any]) -> bool:
    """Whether a chunk of the result reads, at the same places, the same chunk of the operand."""
    source, small = node.inputs[0].type, split.part_type(node.inputs[0], along)
    shape = split.part_type(node, axis).shape
    chunk = Index.variable("chunk", split.count)
    inner = [Index.variable(f"i{k}", int(s)) for k, s in enumerate(shape)]
    outer = [chunk * int(shape[axis]) + i if k == axis else i for k, i in enumerate(inner)]
    place, guard = node.op.index(tuple(outer), source, **node.attributes)
    small_place, small_guard = node.op.index(tuple(inner), small, **attributes)
    if guard != small_guard:
        return False
    shifted = [chunk * int(small.shape[k]) + i if k == along else i for k, i in enumerate(small_place)]
    return list(place) == shifted
