"""What was measured, as Markdown and as a picture."""

from __future__ import annotations

import statistics
from html import escape
from math import ceil, floor, log10
from typing import Any

from .rounds import Contender, Result

HEAD = ("| | µs per step, median (least) | graphc is faster by | of FMA peak | compile + first step s | import s | peak MB |\n"
        "|---|---:|---:|---:|---:|---:|---:|")


def size(count: int) -> str:
    return f"{count / (1 << 20):.0f} MB" if count >= 1 << 20 else f"{count / 1024:.0f} KB"


def machine(results: list[Result]) -> str:
    """The processor and its limits, the best values of the whole run; versions of all that took part."""
    told = [r.machine for r in results]
    first = told[0]
    lines = [f"{first['name']}, measured in this run (best):", "",
             "| threads | FMA float32 GFLOP/s | " + " | ".join(f"triad {size(s)} GB/s" for s in first["sizes"]) + " |",
             "|---:|---:|" + "---:|" * len(first["sizes"])]
    for k, threads in enumerate(first["threads"]):
        peak = max(m["fma"][k] for m in told)
        if k == len(first["threads"]) - 1:
            peak = max(peak, *(p for r in results for p in r.peaks))
        triad = (max(m["triad"][k][i] for m in told) for i in range(len(first["sizes"])))
        lines.append(f"| {threads} | {peak / 1e9:.0f} | " + " | ".join(f"{t / 1e9:.0f}" for t in triad) + " |")
    versions = {c.peer: c.told['version'] for r in results for c in r.contenders}
    return "\n".join([*lines, "", "Versions: " + ", ".join(f"{p} {v}" for p, v in versions.items()) + "."]) + "\n"


def row(result: Result, c: Contender) -> str:
    shown = "" if c.peer == "graphc" else f"{result.ratio(c):.2f}×"
    return (f"| {c.name} | {c.median * 1e6:,.2f} ({min(c.seconds) * 1e6:,.2f}) | {shown} | {result.share(c):.1%} | "
            f"{c.told['first']:.2f} | {c.told['imported']:.2f} | {c.memory / 1024:,.0f} |")


def best(result: Result) -> str:
    """The sentence that compares with the best peer in either mode."""
    parts = []
    for mode, what in (("call", "one call a step"), ("loop", "many steps in a call")):
        peer = result.best_peer(mode)
        if peer is not None and result.ours(mode) is not None:
            parts.append(f"{what}: {peer.name}, graphc is {result.ratio(peer):.2f}× as fast")
    return "Best peer with " + "; with ".join(parts) + "." if parts else "No peer took part."


def table(result: Result) -> str:
    w = result.workload
    lines = [f"### {w.title}", "", HEAD, *(row(result, c) for c in result.contenders), "", best(result)]
    lines += [f"Left out: {c.name} ({c.reason})." for c in result.left_out]
    rounds = len(result.peaks)
    lines.append(f"`{w.name}`: {w.flops:,} operations a step, {rounds} round{'s' * (rounds > 1)}, FMA peak "
                 f"{statistics.median(result.peaks) / 1e9:.0f} GFLOP/s (median).")
    return "\n".join(lines) + "\n"


def summary(results: list[Result]) -> str:
    """One line for each workload: graphc beside the best peer of the same mode."""
    lines = ["| workload | graphc µs | best peer µs | faster by | graphc loop µs | best loop µs | faster by | of FMA peak |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for r in results:
        cells = [r.workload.title]
        for mode in ("call", "loop"):
            own, peer = r.ours(mode), r.best_peer(mode)
            cells.append("" if own is None else f"{own.median * 1e6:,.2f}")
            cells += [f"{peer.name} {peer.median * 1e6:,.2f}", f"{r.ratio(peer):.2f}×"] if peer and own else ["", ""]
        cells.append(f"{max(r.share(c) for c in r.contenders if c.peer == 'graphc'):.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def starts(results: list[Result]) -> str:
    """Compiling and the first step, every time in a new process: a line for each contender."""
    lines = ["| workload | | compile + first step s, median (least) | graphc is quicker by | import s | peak MB |",
             "|---|---|---:|---:|---:|---:|"]
    for r in results:
        for k, c in enumerate(r.contenders):
            shown = "" if c.peer == "graphc" else f"{r.ratio(c):.2f}×"
            lines.append(f"| {'' if k else r.workload.title} | {c.name} | {c.median:.2f} ({min(c.seconds):.2f}) | {shown} | "
                         f"{c.told['imported']:.2f} | {c.memory / 1024:,.0f} |")
        lines += [f"| | {c.name}: {c.reason} | | | | |" for c in r.left_out]
    return "\n".join(lines) + "\n"


def document(results: list[Result], threads: int, precision: str) -> str:
    """Everything, as a page."""
    how = "" if precision == "highest" else f", contractions of {precision} precision"
    return "\n".join([f"# Whole training steps, {threads} thread{'s' * (threads > 1)}, float32{how}\n", machine(results),
                      summary(results), *(table(r) for r in results)])


# -- the picture -----------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, BAR, GAP = 900, 330, 110, 15, 12
STYLE = "text{font:11px sans-serif;fill:#24292f}.w{font-weight:bold;text-anchor:end}.n{text-anchor:end}.a{fill:#57606a}"


def plot(results: list[Result]) -> str:
    """An SVG of bars: how many times as long as graphc each contender takes, in the same mode; a bar left of 1 is faster."""
    rows: list[tuple[str, str, float]] = []
    for r in results:
        peers = [c for c in r.contenders if c.peer != "graphc" and r.ours(c.mode) is not None]
        rows += [(r.workload.name if k == 0 else "", c.name, r.ratio(c)) for k, c in enumerate(peers)]
    values = [v for _, _, v in rows] or [1.0]
    low, high = min(-1, floor(log10(min(values)))), max(1, ceil(log10(max(values))))

    def across(value: float) -> float:
        return LEFT + (log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    body: list[Any] = []
    y = 30
    for workload, name, value in rows:
        y += GAP if workload else 0
        start, end = sorted((across(1), across(value)))
        colour = "#2b6ca3" if value >= 1 else "#c4572e"
        body += [f'<text class="w" x="{LEFT - 110}" y="{y + 11}">{escape(workload)}</text>' if workload else "",
                 f'<text class="n" x="{LEFT - 8}" y="{y + 11}">{escape(name)}</text>',
                 f'<rect x="{start:.1f}" y="{y + 1}" width="{max(1, end - start):.1f}" height="{BAR - 3}" fill="{colour}"/>',
                 f'<text x="{across(max(value, 1)) + 5:.1f}" y="{y + 11}">{value:.2f}×</text>']
        y += BAR
    grid = []
    for power in range(low, high + 1):
        x = across(10 ** power)
        grid += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{y + 6}" stroke="{"#57606a" if power == 0 else "#d0d7de"}"/>',
                 f'<text class="a" x="{x - 8:.1f}" y="{y + 20}">{10 ** power:g}×</text>']
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 30}" viewBox="0 0 {WIDTH} {y + 30}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18">graphc is faster by (same mode, median of paired rounds)</text>',
        *grid, *(b for b in body if b), "</svg>"]) + "\n"
