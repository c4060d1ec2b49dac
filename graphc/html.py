"""A graph as one HTML page: the picture with pan, zoom, search and details on hover; nothing is loaded from elsewhere."""

from __future__ import annotations

from .ir import Graph
from .viz import draw

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>graphc</title>
<style>
 body {{ margin: 0; font: 14px Helvetica, Arial, sans-serif; color: #1B1F24; overflow: hidden; }}
 header {{ position: fixed; top: 0; left: 0; right: 0; padding: 8px 12px; background: #ffffffd9; border-bottom: 1px solid #d0d7de; }}
 input {{ font: inherit; padding: 3px 8px; width: 16em; }}
 #stage {{ width: 100vw; height: 100vh; cursor: grab; }}
 .found polygon, .found path, .found ellipse {{ stroke: #A40E26; stroke-width: 3; }}
</style>
<header><input id="search" placeholder="search op, name or type" aria-label="search"> <span id="count"></span>
 &nbsp; drag to move, wheel to zoom, hover for types and source lines</header>
<div id="stage">{svg}</div>
<script>
 const svg = document.querySelector("svg"), group = svg.querySelector("g");
 svg.setAttribute("width", "100%"); svg.setAttribute("height", "100%");
 const box = svg.viewBox.baseVal; let held = null;
 svg.addEventListener("wheel", e => {{
   e.preventDefault(); const s = e.deltaY > 0 ? 1.1 : 0.9;
   const x = box.x + box.width * e.offsetX / svg.clientWidth, y = box.y + box.height * e.offsetY / svg.clientHeight;
   box.x = x - (x - box.x) * s; box.y = y - (y - box.y) * s; box.width *= s; box.height *= s;
 }}, {{passive: false}});
 svg.addEventListener("pointerdown", e => held = [e.clientX, e.clientY]);
 window.addEventListener("pointerup", () => held = null);
 window.addEventListener("pointermove", e => {{
   if (!held) return;
   const k = Math.max(box.width / svg.clientWidth, box.height / svg.clientHeight);
   box.x -= (e.clientX - held[0]) * k; box.y -= (e.clientY - held[1]) * k; held = [e.clientX, e.clientY];
 }});
 document.getElementById("search").addEventListener("input", e => {{
   const wanted = e.target.value.toLowerCase(); let n = 0;
   for (const node of document.querySelectorAll("g.node")) {{
     const hit = wanted && node.textContent.toLowerCase().includes(wanted); node.classList.toggle("found", !!hit); n += !!hit;
   }}
   document.getElementById("count").textContent = wanted ? n + " found" : "";
 }});
</script></html>
"""


def page(graph: Graph) -> str:
    """The whole page as text."""
    svg = draw(graph, "svg").decode()
    return PAGE.format(svg=svg[svg.index("<svg"):])
