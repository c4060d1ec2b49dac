"""A picture of who did what when: one lane per thread, a box for each span, as SVG.

Knows shapes, colours and labels.  Must not know what was timed, or how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

from .viz import FONT, INK, PALETTE

WIDTH, LEFT, RIGHT, TOP = 1200, 84, 16, 58
LANE, GAP = 34, 10  # pixels of a lane, and between two
CHARACTER = 5.6  # pixels of a label's letter
LEAST = 0.5  # pixels: neighbours of one colour that are narrower become one box
WAITING = ("#E4E7EB", "#8C959F")
COLOURS = {**PALETTE, "waiting": WAITING}


class Box(NamedTuple):
    """A span of a lane.  colour: a key of COLOURS; note: what stands beside the pointer."""

    lane: int
    start: float
    end: float
    label: str
    colour: str
    note: str


def draw(title: str, names: Sequence[str], boxes: Sequence[Box], length: float) -> str:
    """The picture as SVG text: lanes from 0 to `length` microseconds.  Later boxes of a lane lie on earlier ones."""
    scale = (WIDTH - LEFT - RIGHT) / max(length, 1e-9)
    bottom = TOP + len(names) * (LANE + GAP)
    body = [f'<text x="{LEFT}" y="20" class="t">{escape(title)}</text>', *_key(used_colours(boxes))]
    for at in _ticks(length):
        x = LEFT + at * scale
        body.append(f'<path d="M{x:.1f} {TOP - 4}V{bottom}" stroke="#EAEEF2"/>'
                    f'<text x="{x:.1f}" y="{bottom + 14}" class="a">{at:g}</text>')
    body.append(f'<text x="{LEFT - 8}" y="{bottom + 14}" class="n">µs</text>')
    for lane, name in enumerate(names):
        y = TOP + lane * (LANE + GAP)
        body.append(f'<text x="{LEFT - 8}" y="{y + LANE / 2 + 4:g}" class="n">{escape(name)}</text>'
                    f'<path d="M{LEFT} {y + LANE}H{WIDTH - RIGHT}" stroke="#8C959F"/>')
        for box in _merged([b for b in boxes if b.lane == lane], LEAST / scale):
            body.append(_box(box, LEFT + box.start * scale, max((box.end - box.start) * scale, 0.2), y))
    style = "".join(f".{name}{{fill:{fill};stroke:{edge};stroke-width:.5}}" for name, (fill, edge) in COLOURS.items())
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 24}" '
        f'viewBox="0 0 {WIDTH} {bottom + 24}" role="img" aria-label="{escape(title)}">',
        f"<style>text{{font:10px {FONT},Arial,sans-serif;fill:{INK};pointer-events:none}}.t{{font-size:13px;font-weight:bold}}"
        f".a{{text-anchor:middle}}.n{{text-anchor:end}}{style}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>', *body, "</svg>"]) + "\n"


def used_colours(boxes: Sequence[Box]) -> list[str]:
    """In the order of COLOURS."""
    used = {b.colour for b in boxes}
    return [colour for colour in COLOURS if colour in used]


def _key(colours: Sequence[str]) -> Iterator[str]:
    """What colours mean."""
    x = LEFT
    for colour in colours:
        yield f'<rect x="{x}" y="30" width="12" height="12" class="{colour}"/><text x="{x + 17}" y="40">{colour}</text>'
        x += 17 + round(CHARACTER * len(colour)) + 18


def _ticks(length: float) -> list[float]:
    """Round numbers along the axis, about ten."""
    rough = max(length, 1e-9) / 10
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(int(length / step) + 1)]


def _merged(boxes: Sequence[Box], least: float) -> list[Box]:
    """Boxes of a lane, rows of those that are too narrow to be seen as one."""
    result: list[Box] = []
    many = 1
    for box in boxes:
        last = result[-1] if result else None
        narrow = box.end - box.start < least
        if last is not None and narrow and last.colour == box.colour and 0 <= box.start - last.end < least \
                and (many > 1 or last.end - last.start < least):
            many += 1
            note = f"{many} spans, {last.start:.1f} to {box.end:.1f} µs"
            result[-1] = Box(box.lane, last.start, box.end, "", box.colour, note)
        else:
            many = 1
            result.append(box)
    return result


def _box(box: Box, x: float, width: float, y: float) -> str:
    text = ""
    letters = int((width - 6) / CHARACTER)
    if box.label and letters >= min(4, len(box.label)):
        shown = box.label if len(box.label) <= letters else box.label[:letters - 1] + "…"
        text = f'<text x="{x + 3:.1f}" y="{y + LANE / 2 + 4:g}">{escape(shown)}</text>'
    return (f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LANE}" class="{box.colour}">'
            f"<title>{escape(box.note)}</title></rect>{text}")
