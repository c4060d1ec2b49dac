"""What is decided about a contraction: a record of each part, and all of them in one.

Knows names and units.  Must not know how anything is decided: that is `blocking`.
"""

from __future__ import annotations

from graphc.runtime.native.operands import Extent, Rows, Sums

from graphc.records import field, record

COARSE = 1000  # cycles of a tile's multiply-adds beside which calls do not count, nor that what calls is compiled quickly


@record(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Row tiles, into which segments are cut evenly; panels of whole registers; and what is packed for them."""

    pack_a: bool
    pack_b: bool
    segment_tiles: int
    row_tiles: int
    height: int
    tall: int  # this many tiles of a segment have `height` rows, the others one less; 0: all are equal
    panels: int
    vectors: int
    wide: int  # this many panels have `vectors` registers, the others one less; 0: all are equal
    masked: bool
    overlapped: bool  # a tile is finished while the next one is summed
    narrow: int = 0  # lanes of the last vector of the last panel, where half a register takes half the time; else 0
    stretch: int = 0  # columns that are neighbours in B, over and over, where panels end with them; 0: they do not
    stretch_panels: int = 0  # of each
    in_order: bool = False  # a large result is written a few rows at a time
    stacked: int = 0  # elements between stretches in B, where each vector of a tile is one; else 0


@record(frozen=True, kw_only=True, eq=False)
class Depth:
    """Blocks of k."""

    k_in_block: int
    k_inner_blocks: int
    k_blocks: int
    a_run: int  # where offsets come from a table: k in runs of so many neighbours, a block being whole runs; else 0
    b_run: int


@record(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Blocks of row tiles and panels, and the side that threads share out."""

    tiles_in_block: int
    panels_in_block: int
    streamed: bool  # B panels do not stay in the first-level cache
    far_result: bool  # sums are so short that rows of the result are waited for
    split_rows: bool
    ahead: int = 0  # k of the next block whose rows of B are fetched beside each tile
    fetched: int = 0  # lines of the next tile's rows that are fetched beside each panel
    rows_stay: bool = False  # a block's row tiles are packed once for all panels, and stay in the third-level cache
    in_order_ahead: int = 0  # row tiles ahead of which lines of a result that is written in order are fetched; 0: they are not
    by_depth: bool = False  # blocks of panels follow each other for each block of k, not the other way round


@record(frozen=True, kw_only=True, eq=False)
class Sharing:
    """How threads balance the work: each begins with most of its share of the units, whoever is free takes the rest."""

    portion: int = 0  # units that are taken at a time; 0: fewer and fewer, since what they all need is packed each time
    parts: int = 1  # in which the rows of a portion of panels are taken
    keeps: bool = False  # each thread packs for itself, once, what all units of all members of the batch need: panels or rows
    by_block: bool = False  # row tiles are shared out anew for each block of panels, which every thread packs for itself
    most_threads: int = 1  # more of them share out everything beforehand, and so does one


@record(frozen=True, kw_only=True, eq=False)
class Scratch:
    """What is where in a thread's memory."""

    a_line: int  # elements
    row_tile_bytes: int  # of a row tile and of a panel, packed, of one block of k
    panel_bytes: int
    regions: dict[str, int] = field(compare=False)
    scratch_bytes: int = 0


@record(frozen=True, kw_only=True)
class Blocking(Extent, Rows, Sums, Tiles, Depth, Blocks, Sharing, Scratch):
    """Every decision about one contraction; lengths in elements unless said otherwise."""

    gathers_rows: bool = False  # the tiles of a row meet in scratch, and are finished together
    pieces: int = 0  # of bfloat16 that are multiplied for each element; 0: elements are multiplied as they are
    pairs: int = 0  # of k in a packed block, where vectors multiply pieces; 0: a matrix unit does, or there are none
    along: bool = False  # pairs of a row of A are neighbours where it is packed; else those of a k are
    overlap: int = 0  # k in which a vector of the tile before is finished while this one is summed; 0: tiles finish themselves

    @property
    def units(self) -> int:
        """What threads share out: row tiles or panels."""
        return self.row_tiles if self.split_rows else self.panels

    @property
    def begins_even(self) -> bool:
        """Whether rows of tiles begin at whole vectors of the result, to which micro-kernels write once."""
        strides = self.c_row, *(step for _, step in (*self.c_batch, *self.c_segments))
        return self.direct and self.k_blocks == 1 and not self.stretch and not any(s % self.lanes for s in strides)

    @property
    def cycles(self) -> int:
        """Of a tile's multiply-adds in a block of k, at their limit."""
        if self.pieces and not self.pairs:
            return 0
        return self.height * self.vectors * (self.pairs or self.k_in_block) // 2

    @property
    def coarse(self) -> bool:
        """Whether a call for each tile takes no time worth mentioning."""
        return self.cycles >= COARSE

    @property
    def care(self) -> int:
        """What the loops around tiles are worth: see `emit.Function`.  With less, divisions are divisions but for shifts."""
        groups = (self.a_batch, self.b_batch, self.c_batch, self.a_m, self.b_n, self.a_segments, self.c_segments,
                  self.a_k_outer, self.b_k_outer)
        divisions = sum(size & size - 1 > 0 for axes in groups for size, _ in axes[1:])
        return max(0, 2 - self.cycles // (COARSE * (1 + divisions)))
