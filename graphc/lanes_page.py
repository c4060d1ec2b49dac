"""Lanes of spans as one HTML page with zoom and details on hover; nothing is loaded from elsewhere.

Knows browsers.  Must not know what was timed, or how.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from string import Template

from .lanes import COLOURS, GAP, LANE, Box, used_colours

PAGE = Template("""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>graphc: $title</title>
<style>
 body { margin: 0; font: 14px/1.4 Helvetica, Arial, sans-serif; color: #1B1F24; background: #fff; }
 header { padding: 8px 12px; border-bottom: 1px solid #d0d7de; display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
 .key { padding: 1px 8px; border: 1px solid; border-radius: 6px; }
 .note { color: #57606A; }
 canvas { display: block; width: 100%; cursor: grab; touch-action: none; }
 #details { min-height: 1.5em; padding: 4px 12px; font: 12px/1.5 monospace; white-space: pre-wrap; }
 pre { margin: 8px 12px; font: 12px/1.5 monospace; overflow-x: auto; }
</style></head>
<body>
<header><strong>$title</strong> $legend
 <span class="note">drag to move, wheel to zoom, double-click to see all, hover for details</span>
</header>
<canvas id="lanes" role="img" aria-label="$title"></canvas>
<div id="details" role="status"></div>
<pre>$table</pre>
<script>
"use strict";
const data = $data;
const canvas = document.getElementById("lanes"), details = document.getElementById("details"), pen = canvas.getContext("2d");
const LEFT = 84, TOP = 12, LANE = data.lane, STEP = data.lane + data.gap, HEIGHT = TOP + data.lanes.length * STEP + 24;
let from = 0, to = data.length, width = 0;
const across = time => LEFT + (time - from) / (to - from) * (width - LEFT);
function draw() {
  const ratio = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  canvas.style.height = HEIGHT + "px";
  canvas.width = width * ratio; canvas.height = HEIGHT * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = "11px Helvetica, Arial, sans-serif"; pen.lineWidth = 0.5; pen.textBaseline = "middle";
  pen.save();
  pen.beginPath(); pen.rect(LEFT, 0, width - LEFT, HEIGHT); pen.clip();
  const rough = (to - from) / 10, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough) || 10 * power;
  pen.textAlign = "center";
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    pen.fillStyle = "#EAEEF2"; pen.fillRect(across(at), TOP - 4, 1, HEIGHT - TOP - 20);
    pen.fillStyle = "#1B1F24"; pen.fillText(String(+at.toPrecision(6)), across(at), HEIGHT - 12);
  }
  pen.textAlign = "left";
  const last = new Map();  // of each lane and colour the pixel that is drawn already
  for (const [lane, start, end, label, colour] of data.boxes) {
    if (end < from || start > to) continue;
    const left = Math.max(across(start), LEFT - 2), right = Math.min(across(end), width + 2), y = TOP + lane * STEP;
    const key = lane + colour;
    if (right - left < 0.5 && right - (last.get(key) ?? -1) < 0.5) continue;
    last.set(key, right);
    [pen.fillStyle, pen.strokeStyle] = data.colours[colour];
    pen.fillRect(left, y, Math.max(right - left, 0.5), LANE);
    if (right - left > 2) pen.strokeRect(left, y, right - left, LANE);
    const letters = Math.floor((right - left - 8) / 6);
    if (label && letters >= Math.min(4, label.length)) {
      pen.fillStyle = "#1B1F24";
      pen.fillText(label.length <= letters ? label : label.slice(0, letters - 1) + "…", left + 4, y + LANE / 2);
    }
  }
  pen.restore();
  pen.fillStyle = "#1B1F24"; pen.textAlign = "right";
  data.lanes.forEach((name, lane) => pen.fillText(name, LEFT - 8, TOP + lane * STEP + LANE / 2));
  pen.fillText("µs", LEFT - 8, HEIGHT - 12);
}
function look(low, high) {
  const span = Math.min(Math.max(high - low, 1e-3), data.length);
  from = Math.min(Math.max(low, 0), data.length - span); to = from + span;
  draw();
}
const timeAt = event => from + (event.offsetX - LEFT) / (width - LEFT) * (to - from);
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const at = timeAt(event), factor = event.deltaY > 0 ? 1.2 : 1 / 1.2;
  look(at - (at - from) * factor, at + (to - at) * factor);
}, {passive: false});
let held = null;
canvas.addEventListener("pointerdown", event => { held = event.clientX; canvas.style.cursor = "grabbing"; });
window.addEventListener("pointerup", () => { held = null; canvas.style.cursor = ""; });
window.addEventListener("pointermove", event => {
  if (held === null) return;
  const moved = (event.clientX - held) / (width - LEFT) * (to - from);
  held = event.clientX;
  look(from - moved, to - moved);
});
canvas.addEventListener("dblclick", () => look(0, data.length));
canvas.addEventListener("pointermove", event => {
  const lane = Math.floor((event.offsetY - TOP) / STEP), time = timeAt(event);
  const box = data.boxes.findLast(b => b[0] === lane && b[1] <= time && time <= b[2]);  // those that lie above come later
  details.textContent = box ? box[5] : "";
});
window.addEventListener("resize", draw);
draw();
</script>
</body></html>
""")


def page(title: str, names: Sequence[str], boxes: Sequence[Box], length: float, table: str) -> str:
    """The whole page as text: what `lanes.draw` draws, and a table below."""
    data = {"lanes": list(names), "length": length, "lane": LANE, "gap": GAP, "colours": COLOURS,
            "boxes": [(b.lane, round(b.start, 3), round(b.end, 3), b.label, b.colour, b.note) for b in boxes]}
    legend = " ".join(f'<span class="key" style="background:{COLOURS[c][0]};border-color:{COLOURS[c][1]}">{c}</span>'
                      for c in used_colours(boxes))
    written = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")  # no end of the script inside it
    return PAGE.substitute(title=escape(title), legend=legend, table=escape(table), data=written)
