"""A graph as one HTML page: the picture with pan, zoom, search and details on hover; nothing is loaded from elsewhere.

Knows browsers.  Must not know how a graph is drawn.
"""

from __future__ import annotations

from html import escape
from string import Template

from .ir import Graph
from .viz import PALETTE, draw, phases

PAGE = Template("""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>graphc: $title</title>
<style>
 body { margin: 0; font: 14px/1.4 Helvetica, Arial, sans-serif; color: #1B1F24; background: #fff; overflow: hidden; }
 header { position: fixed; inset: 0 0 auto 0; padding: 8px 12px; background: #ffffffe6; border-bottom: 1px solid #d0d7de;
          display: flex; gap: 14px; align-items: center; flex-wrap: wrap; z-index: 1; }
 input { font: inherit; padding: 3px 8px; width: 16em; border: 1px solid #8C959F; border-radius: 6px; }
 .key { padding: 1px 8px; border: 1px solid; border-radius: 6px; }
 .note { color: #57606A; }
 #stage { width: 100vw; height: 100vh; cursor: grab; touch-action: none; }
 #details { position: fixed; right: 12px; bottom: 12px; max-width: min(46em, 60vw); padding: 8px 12px; background: #fff;
            border: 1px solid #8C959F; border-radius: 8px; white-space: pre-wrap; font: 12px/1.5 monospace;
            overflow-wrap: anywhere; pointer-events: none; }
 #details:empty { display: none; }
 g.node { cursor: default; }
 g.node:hover path, g.node:hover polygon { stroke-width: 2.5; }
 .searching g.node:not(.found) { opacity: .35; }
 g.found path, g.found polygon { stroke: #A40E26; stroke-width: 3; }
</style></head>
<body>
<header><input id="search" type="search" placeholder="search op, name, type or line" aria-label="search">
 <span id="count" class="note" role="status"></span> $legend
 <span class="note">drag to move, wheel to zoom, double-click to fit, hover for details, Enter for the next match</span>
</header>
<div id="stage">$svg</div>
<div id="details" role="status"></div>
<script>
"use strict";
const stage = document.getElementById("stage"), svg = stage.querySelector("svg");
svg.setAttribute("width", "100%"); svg.setAttribute("height", "100%");
const box = svg.viewBox.baseVal, whole = [box.x, box.y, box.width, box.height];
const scale = () => Math.max(box.width / svg.clientWidth, box.height / svg.clientHeight);  // units per pixel
const detailOf = new Map();
for (const group of svg.querySelectorAll("g.node, g.edge")) {
  const link = group.querySelector("a");
  if (link) { detailOf.set(group, link.getAttribute("xlink:title") || ""); link.removeAttribute("xlink:title"); }
}
for (const title of svg.querySelectorAll("title")) title.remove();  // internal names, which browsers would show on hover
function fit() { [box.x, box.y, box.width, box.height] = whole; }
function zoom(factor, x, y) {
  const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse());
  box.x = point.x - (point.x - box.x) * factor; box.y = point.y - (point.y - box.y) * factor;
  box.width *= factor; box.height *= factor;
}
svg.addEventListener("wheel", event => {
  event.preventDefault(); zoom(event.deltaY > 0 ? 1.1 : 1 / 1.1, event.clientX, event.clientY);
}, {passive: false});
let held = null;
stage.addEventListener("pointerdown", event => { held = [event.clientX, event.clientY]; stage.style.cursor = "grabbing"; });
window.addEventListener("pointerup", () => { held = null; stage.style.cursor = ""; });
window.addEventListener("pointermove", event => {
  if (!held) return;
  const units = scale();
  box.x -= (event.clientX - held[0]) * units; box.y -= (event.clientY - held[1]) * units;
  held = [event.clientX, event.clientY];
});
stage.addEventListener("dblclick", fit);
const details = document.getElementById("details");
svg.addEventListener("pointerover", event => {
  const group = event.target.closest("g.node, g.edge");
  details.textContent = group ? detailOf.get(group) || "" : "";
});
const search = document.getElementById("search"), count = document.getElementById("count");
let matches = [], next = 0;
search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  matches = []; next = 0;
  for (const node of svg.querySelectorAll("g.node")) {
    const hit = wanted !== "" && (node.textContent + "\\n" + (detailOf.get(node) || "")).toLowerCase().includes(wanted);
    node.classList.toggle("found", hit);
    if (hit) matches.push(node);
  }
  stage.classList.toggle("searching", wanted !== "");
  count.textContent = wanted ? matches.length + " found" : "";
});
search.addEventListener("keydown", event => {
  if (event.key !== "Enter" || !matches.length) return;
  const node = matches[next++ % matches.length], place = node.getBoundingClientRect(), units = scale();
  box.x += (place.x + place.width / 2 - svg.clientWidth / 2) * units;
  box.y += (place.y + place.height / 2 - svg.clientHeight / 2) * units;
  details.textContent = detailOf.get(node) || "";
});
</script>
</body></html>
""")


def page(graph: Graph) -> str:
    """The whole page as text.  Raises GraphError where pictures cannot be drawn, as `viz.draw` does."""
    svg = draw(graph, "svg").decode("utf-8")
    present = set(phases(graph).values()) | ({"update"} if graph.updates else set())
    legend = "".join(f'<span class="key" style="background:{fill};border-color:{border}">{phase}</span> '
                     for phase, (fill, border) in PALETTE.items() if phase in present)
    title = f"{len(graph.nodes)} nodes, {len(graph.outputs)} outputs, {len(graph.updates)} updates"
    return PAGE.substitute(svg=svg[svg.index("<svg"):], legend=legend, title=escape(title))
