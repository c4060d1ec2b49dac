"""What each thread of a step did: every kernel is there, spans are in order, nothing else changes, others can read it."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import time
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from graphc.runtime.native import clock, marks, recording
from graphc.runtime.native.codegen import assembly_for
from graphc.runtime.native.emit import Module
from graphc.runtime.native.meetings import step_is_serial
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.threads import Pool
from graphc.runtime.trace import RECORD, Trace, in_order

import graphc
from graphc import nn, optim
from graphc.errors import FeedError, GraphError
from graphc.plan import Branch, Kernel, Loop, Plan, bodies
from graphc.timeline import Timeline
from graphc.watching import timeline_of

Case = tuple[graphc.Program, dict[str, np.ndarray]]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def trained(model: nn.Module, sample: tuple[int, ...], target: tuple[int, ...], size: int | None = None,
            **options: object) -> Case:
    """A step of Adam on the mean square, and a batch for it.  size: of an open batch."""
    open_ = "batch" if size else sample[0]
    x, y = graphc.placeholder("x", (open_, *sample[1:])), graphc.placeholder("y", (open_, *target[1:]))
    step = graphc.train_step(nn.MSELoss()(model(x), y), optim.Adam(model.parameters(), lr=1e-3), **options)
    batch = size or sample[0]
    return step, {"x": numbers(batch, *sample[1:]), "y": numbers(batch, *target[1:], seed=1)}


def large(**options: object) -> Case:
    """Kernels that all threads share, which meet inside contractions too."""
    model = nn.Sequential(nn.Linear(200, 256), nn.ReLU(), nn.LayerNorm(256), nn.Linear(256, 10))
    return trained(model, (96, 200), (96, 10), **options)


def open_batch(**options: object) -> Case:
    return trained(nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 8)), (0, 64), (0, 8), size=160, **options)


def chunks(**options: object) -> Case:
    """A batch in chunks, whose kernels threads run without meeting."""
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    return trained(model, (256, 8), (256, 2), **options)


def recurrent(**options: object) -> Case:
    """Loops whose runs wait for each other."""
    layer = nn.LSTM(24, 160)
    x, y = graphc.placeholder("x", (6, 64, 24)), graphc.placeholder("y", (64, 160))
    step = graphc.train_step(nn.MSELoss()(layer(x)[0][-1], y), optim.SGD(layer.parameters(), lr=0.05), **options)
    return step, {"x": numbers(6, 64, 24), "y": numbers(64, 160, seed=1)}


def uneven(**options: object) -> Case:
    """Seven runs for two or three threads, inside which a loop counts on."""
    x, w = graphc.placeholder("x", (7, 96, 64)), graphc.placeholder("w", (64, 64))

    def run(_: object, x: graphc.Tensor) -> tuple[tuple[()], graphc.Tensor]:
        return (), graphc.scan(lambda c, _: (graphc.tanh(c @ w), None), x, None, length=3)[0].softmax(-1).sum(0)

    program = graphc.function([x, w], graphc.scan(run, (), x)[1], **options)
    return program, {"x": numbers(7, 96, 64), "w": numbers(64, 64, seed=1)}


def branches(**options: object) -> Case:
    """A branch of large kernels, one side of which runs, and cells that must be copied."""
    x, flag = graphc.placeholder("x", (300, 300)), graphc.placeholder("flag", (), "bool")
    picked = graphc.cond(flag, lambda x: x @ x, lambda x: graphc.log(x * x + 1), x)
    a, b = graphc.state("a", numbers(300, 300)), graphc.state("b", numbers(300, 300, seed=1))
    return graphc.function([x, flag], picked.sum(), {a: b + picked, b: a * 0.5}, **options), \
        {"x": numbers(300, 300), "flag": np.array(True)}


def budget(**options: object) -> Case:
    """Values that are computed again."""
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(128, 128), nn.Tanh())))
    whole, feeds = trained(model, (256, 128), (256, 128))
    need = whole.specialize().plan.arena_bytes
    return trained(model, (256, 128), (256, 128), memory_budget=need * 3 // 4, **options)[0], feeds


def tiny(**options: object) -> Case:
    """So small that it is unrolled."""
    return trained(nn.Linear(2, 1), (4, 2), (4, 1), **options)


CASES = (large, open_batch, chunks, recurrent, uneven, branches, budget, tiny)


def taking_part(plan: Plan, threads: int, alone: bool) -> Iterator[tuple[Kernel, str]]:
    """Each kernel, and who runs each of its runs: "one" thread, or "all"."""
    for step in plan.steps:
        one = alone or step_is_serial(step)
        if isinstance(step, Kernel):
            yield step, "one" if one else "all"
        for inner in bodies(step):
            yield from taking_part(inner, threads, one or (isinstance(step, Loop) and step.parallel))


def sides(plan: Plan) -> set[str]:
    """Kernels that a run may leave out."""
    found = set()
    for inner in plan.each_plan():
        for step in inner.steps:
            if isinstance(step, Branch):
                found |= {k.name for p in bodies(step) for k in p.kernels}
    return found


def apart(spans: np.recarray) -> bool:
    """Whether each span begins when the one before it has ended."""
    return bool(np.all(spans.start_us[1:] >= spans.end_us[:-1]) and np.all(spans.start_us <= spans.end_us))


def check_sound(timeline: Timeline) -> None:
    """What holds of every timeline."""
    assert np.array_equal(timeline.bounds_us.min(0)[:1], [0.0])
    for thread in range(timeline.threads):
        events, waits = timeline.events[timeline.events.thread == thread], timeline.waits[timeline.waits.thread == thread]
        begin, end = timeline.bounds_us[thread]
        assert apart(events) and apart(waits)
        for spans in (events, waits):
            assert not len(spans) or (spans.start_us[0] >= begin and spans.end_us[-1] <= end)
        for wait in waits:
            around = (events.start_us <= wait.start_us) & (wait.end_us <= events.end_us)
            outside = (events.end_us <= wait.start_us) | (wait.end_us <= events.start_us)
            assert np.all(around | outside)
            assert wait.kernel == "" if not around.any() else wait.kernel in events.kernel[around]
    assert np.all(np.diff(timeline.events.thread) >= 0)
    assert np.all(timeline.outside_us > -1e-6) and np.all(timeline.computing_us >= 0) and timeline.computing_us.sum() > 0
    assert np.isclose(sum(k.share for k in timeline.kernels) * timeline.step_us, timeline.computing_us.mean())
    assert np.allclose(np.sum([k.times for k in timeline.kernels], 0), timeline.computing_us)
    assert np.all(np.sum([k.waits for k in timeline.kernels], 0) <= timeline.waiting_us + 1e-6)
    assert {k.kernel for k in timeline.kernels if k.runs} == set(timeline.events.kernel)


@pytest.fixture(scope="module")
def pool_of_three() -> Iterator[Pool]:
    found = Pool(3)
    yield found
    found.close()


@pytest.fixture
def three_threads(pool_of_three: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs may take three threads, however few cores there are."""
    monkeypatch.setattr("graphc.runtime.native.threads._shared", pool_of_three)


@pytest.mark.usefixtures("several_threads", "three_threads")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_every_kernel_is_on_each_thread_that_runs_it(case, threads: int) -> None:
    step, feeds = case(threads=threads)
    timeline = step.timeline(**feeds, repeat=3)
    check_sound(timeline)
    special = step.prepare([feeds[i.name] for i in step.inputs])
    if case is tiny:
        assert [k.kernel for k in timeline.kernels] == ["unrolled step"] and len(timeline.events) == 1
        return
    plan = special.plan
    assert timeline.threads == special.executable.threads == (threads if any(not step_is_serial(s) for s in plan.steps) else 1)
    rows, often = dict(zip(plan.kernels, timeline.kernels, strict=False)), dict(plan.runs)
    assert len({k.kernel for k in timeline.kernels}) == len(timeline.kernels) >= len(plan.kernels)
    for kernel, who in taking_part(plan, threads, timeline.threads == 1):
        row = rows[kernel]
        events = timeline.events[timeline.events.kernel == row.kernel]
        if kernel.name in sides(plan) and not len(events):
            assert row.runs == 0 and "not taken" in timeline.table()
            continue
        runs, counts = np.unique(events.run, return_counts=True)
        assert np.array_equal(runs, np.arange(often[kernel])) and row.runs == often[kernel], kernel
        assert np.all(counts == (timeline.threads if who == "all" else 1)), kernel
        assert row.flops == kernel.flops * row.runs and row.form == kernel.form.value and row.scope == kernel.scope
    if case in (large, recurrent) and threads > 1:
        assert len(timeline.waits) and np.all(timeline.waiting_us > 0)
    if case is branches:
        assert [k.runs for k in timeline.kernels].count(0) >= 1
    if case is uneven and threads > 1:
        assert set(timeline.events.thread) == set(range(threads))


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_a_step_and_its_parameters_are_what_they_were(case, backend: str) -> None:
    """Beside an equal program that nobody looked at."""
    step, feeds = case(threads=2, backend=backend)
    before = step.state_dict()
    first = step(**feeds)
    step.load_state_dict(before)
    timeline = step.timeline(**feeds, repeat=2)
    check_sound(timeline)
    assert timeline.backend == backend and len(timeline.steps_us) == len(timeline.plain_us) == 2
    for name, value in step.state_dict().items():
        assert np.array_equal(before[name], value), name
    again = step(**feeds)
    for one, other in zip(np.atleast_1d(first), np.atleast_1d(again), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_the_step_that_is_watched_computes_the_same_bits(case) -> None:
    step, feeds = case(threads=2)
    arrays = [feeds[i.name] for i in step.inputs]
    plain = step.prepare(arrays).executable
    watched = recording.Recording(plain)
    watched.forget()
    before = step.state_dict()
    results = []
    for executable in (plain, watched):
        step.load_state_dict(before)
        outputs = executable.run(arrays, 1, [False] * len(arrays))
        results.append([*outputs, *step.state_dict().values()])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True)) and watched.wanted() > 0


FUNCTION = re.compile(r"^define [^@]*@([\w.]+)\(.*?^}", re.M | re.S)


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_the_ordinary_code_and_all_kernels_stay_letter_by_letter(case) -> None:
    step, feeds = case(threads=2)
    executable = step.prepare([feeds[i.name] for i in step.inputs]).executable
    before = executable.text
    step.timeline(**feeds, repeat=1)
    assert executable.text == before and "graphc.mark" not in before and "graphc.now" not in before
    watched = executable._recording.text
    assert "graphc.mark" in watched
    one, other = ({f.group(1): f.group(0) for f in FUNCTION.finditer(text)} for text in (before, watched))
    changed = {name for name in one if other.get(name) != one[name]}
    assert changed <= {"step", "run", "graphc.barrier"} and (case is tiny or "step" in changed)


def test_numpy_is_watched_op_by_op() -> None:
    step, feeds = large(backend="numpy")
    timeline = step.timeline(**feeds, repeat=2)
    ops = [n.op.name for n in step.specialize().graph.nodes if not n.op.is_given]
    assert sorted(timeline.events.kernel) == sorted([*ops, "copies"])
    assert timeline.threads == 1 and not len(timeline.waits)
    rows = {k.kernel: k for k in timeline.kernels}
    assert rows["contract"].runs == ops.count("contract") and rows["contract"].gflops > 0
    assert {k.phase for k in timeline.kernels} >= {"forward", "gradient", "update"}


# -- what is made of it --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize(("case", "backend"), [(large, "native"), (chunks, "native"), (tiny, "native"), (tiny, "numpy")])
def test_trace_events_have_the_fields_of_the_format(case, backend: str, tmp_path: Path) -> None:
    step, feeds = case(threads=2, backend=backend)
    timeline = step.timeline(**feeds, repeat=2)
    timeline.save(tmp_path / "step.json")
    read = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    events = read["traceEvents"]
    assert all({"name", "ph", "ts", "pid", "tid"} <= set(e) for e in events) and {e["ph"] for e in events} == {"M", "X"}
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == len(timeline.events) + len(timeline.waits)
    assert all(e["dur"] >= 0 and e["ts"] >= 0 and isinstance(e["name"], str) and e["cat"] for e in spans)
    named = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert named == {t: f"thread {t}" for t in range(timeline.threads)} and {e["tid"] for e in spans} == set(named)
    for thread in named:  # spans of one thread nest: none begins in one and ends after it, also as rounded
        own = sorted((e for e in spans if e["tid"] == thread), key=lambda e: (e["ts"], -e["dur"]))
        open_: list[float] = []
        for event in own:
            end = round(event["ts"] + event["dur"], 3)
            while open_ and open_[-1] <= event["ts"]:
                open_.pop()
            assert not open_ or end <= open_[-1]
            open_.append(end)


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize(("case", "backend"), [(large, "native"), (chunks, "native"), (tiny, "native"), (tiny, "numpy")])
def test_the_picture_is_well_formed(case, backend: str, tmp_path: Path) -> None:
    step, feeds = case(threads=2, backend=backend)
    timeline = step.timeline(**feeds, repeat=2)
    timeline.save(tmp_path / "step.svg")
    root = ElementTree.parse(tmp_path / "step.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in root.iter(f"{space}text")]
    assert root.tag == f"{space}svg" and all(f"thread {t}" in texts for t in range(timeline.threads))
    width = float(root.attrib["width"])
    boxes = [r for r in root.iter(f"{space}rect") if r.find(f"{space}title") is not None]
    assert boxes and all(float(b.attrib["x"]) + float(b.attrib["width"]) <= width for b in boxes)
    longest = timeline.events[np.argmax(timeline.events.end_us - timeline.events.start_us)]
    assert any(str(longest.kernel) in (b.find(f"{space}title").text or "") for b in boxes)


def part_of(text: str, pattern: str, flags: re.RegexFlag) -> str:
    found = re.search(pattern, text, flags)
    assert found is not None, pattern
    return str(found.group(1))


@pytest.mark.usefixtures("several_threads")
def test_the_page_is_self_contained_and_holds_the_spans(tmp_path: Path) -> None:
    step, feeds = large(threads=2)
    step.name = "</script> & co"
    timeline = step.timeline(**feeds, repeat=2)
    timeline.save(tmp_path / "step.html")
    text = (tmp_path / "step.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count("</script>") == 1 and "&lt;/script&gt; &amp; co: " in text
    assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\(|https?://", text)
    data = json.loads(part_of(text, r"^const data = (.*);$", re.M))
    assert data["lanes"] == ["thread 0", "thread 1"] and len(data["boxes"]) == len(timeline.events) + len(timeline.waits)
    for lane, start, end, label, colour, note in data["boxes"]:
        assert 0 <= start <= end <= data["length"] + 1e-3 and lane in (0, 1) and colour in data["colours"] and note
        assert label or colour == "waiting"
    for part in ("wheel", "pointermove", "dblclick", ">forward<", ">waiting<", "waiting for others"):
        assert part in text
    if node := shutil.which("node"):
        script = part_of(text, r"<script>(.*)</script>", re.DOTALL)
        own = [b for b in data["boxes"] if b[0] == 0 and b[3]]
        longest = max(own, key=lambda b: b[2] - b[1])
        middle = longest[1] * 0.9 + longest[2] * 0.1
        expected = [b[5] for b in data["boxes"] if b[0] == 0 and b[1] <= middle <= b[2]][-1]
        (tmp_path / "page.js").write_text(f"{BROWSER}{script}fire({middle});", encoding="utf-8")
        done = subprocess.run([node, str(tmp_path / "page.js")], capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        drawn, shown, zoomed, whole = done.stdout.strip().split("\n")
        assert int(drawn) >= len(timeline.events) / 2 and shown == expected
        assert float(zoomed) == pytest.approx(1.2**-9) and whole == "same"


BROWSER = """
const handlers = {}, counts = {};
const listen = name => (event, handler) => { (handlers[name + event] ||= []).push(handler); };
const ink = new Proxy({}, {get: (_, name) => (...given) => { counts[name] = (counts[name] || 0) + 1; }, set: () => true});
const elements = {lanes: {getContext: () => ink, style: {}, clientWidth: 1000, addEventListener: listen("canvas ")},
                  details: {}};
const document = {getElementById: name => elements[name]}, window = {addEventListener: listen("window ")};
const send = (name, event) => handlers[name].forEach(handler => handler(event));
function fire(middle) {
  console.log(counts.fillRect);
  send("canvas pointermove", {offsetX: 84 + middle / data.length * 916, offsetY: 20});
  console.log(elements.details.textContent);
  for (let i = 0; i < 9; i++) send("canvas wheel", {preventDefault() {}, offsetX: 400, deltaY: -1});
  send("canvas pointerdown", {clientX: 400}); send("window pointermove", {clientX: 420}); send("window pointerup", {});
  console.log((to - from) / data.length);
  send("canvas dblclick", {});
  console.log(from === 0 && to === data.length ? "same" : "other");
}
"""


def test_sums_of_a_trace_that_is_known() -> None:
    """Two threads, a kernel that all share and one for the last of them; waits inside the first, behind it, and before any."""
    step, _ = large(threads=2)
    special = step.specialize()
    both, last = special.plan.kernels[:2]

    def records(*rows: tuple[int, int, int, float, float]) -> np.ndarray:
        return in_order(np.array(list(rows), RECORD))

    one = records((1, 0, 0, 1, 41), (0, 0, 0, 10, 15), (0, 0, 0, 41, 99), (0, 1, 0, 2, 4), (1, 1, 0, 5, 61), (2, 1, 0, 62, 90),
                  (0, 1, 0, 90, 99))
    slow = one.copy()
    slow["end"] *= 7
    bounds = np.array([[[0, 100], [1, 100]], [[0, 700], [1, 700]], [[0, 100], [1, 100]]], float)
    trace = Trace(("wait", both, last), (one, slow, one), bounds, np.array([90.0, 80.0, 900.0]))
    timeline = timeline_of("step", "native", trace, special)
    first, second, *others = timeline.kernels
    assert first.times == (35.0, 56.0) and first.waits == (63.0, 0.0) and np.isclose(first.share, 91 / 200)
    assert second.times == (0.0, 28.0) and second.waits == (0.0, 9.0) and second.runs == 1
    assert all(k.runs == 0 and k.times == (0.0, 0.0) and np.isnan(k.gflops) for k in others)
    assert timeline.step_us == 100.0
    assert timeline.computing_us.tolist() == [35.0, 84.0] and timeline.waiting_us.tolist() == [63.0, 11.0]
    assert timeline.outside_us.tolist() == [2.0, 5.0] and np.isclose(first.gflops, both.flops / 56e3)
    assert timeline.waits.kernel.tolist() == [first.kernel, "", "", ""]
    table = timeline.table(sort="step", rows=1)
    assert "100.0us a step" in table and "not watched 85.00us" not in table and "not watched 85.0us" in table
    assert "35.0us" in table and f"and {len(timeline.kernels) - 1} more" in table and second.kernel not in table.split("\n")[3]
    assert re.search(r"waiting for others +37.0%", table) and re.search(r"computing +59.5%", table)
    assert timeline.table().index(first.kernel) < timeline.table().index(second.kernel)


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parent.parent / "docs" / "timeline.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert "step on native" in capsys.readouterr().out
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step.html", "step.json", "step.svg"]


def test_many_threads_have_three_columns() -> None:
    step, _ = large(threads=2)
    special = step.specialize()
    rows = [(1, t, 0, 0.0, 10.0 + t) for t in range(6)]
    bounds = np.array([[[0.0, 16.0]] * 6])
    trace = Trace(("wait", special.plan.kernels[0]), (np.array(rows, RECORD),), bounds, np.ones(1))
    table = timeline_of("step", "native", trace, special).table(rows=1).splitlines()
    assert table[1].split() == ["kernel", "share", "fastest", "mean", "slowest", "waiting", "GFLOP/s", "GB/s", "phase"]
    assert table[2].split()[2:5] == ["10.00us", "12.50us", "15.00us"]


def test_wrong_files_and_orders(tmp_path: Path) -> None:
    step, feeds = tiny()
    timeline = step.timeline(**feeds, repeat=1)
    for name in ("step.png", "step", "step.txt"):
        with pytest.raises(GraphError, match=r"\.json .* or \.svg .* or \.html"):
            timeline.save(tmp_path / name)
    with pytest.raises(GraphError, match="'time' or 'step', not 'name'"):
        timeline.table(sort="name")
    with pytest.raises(OSError):
        timeline.save(tmp_path / "missing" / "step.svg")
    assert "unrolled step" in str(timeline) and repr(timeline).startswith("<Timeline of ") and not list(tmp_path.iterdir())


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("change", [{"x": None}, {"x": np.ones((3, 5), np.float32)}, {"z": np.ones(3)}, {"y": "text"},
                                    {"x": np.ones((2, 2), np.float32)}, {"x": np.ones((4, 2), complex)}])
def test_wrong_feeds_are_refused_as_by_a_call(change: dict[str, object], backend: str) -> None:
    step, feeds = tiny(backend=backend)
    given = {k: v for k, v in {**feeds, **change}.items() if v is not None}
    messages = []
    for ask in (step, step.timeline):
        with pytest.raises(GraphError) as error:
            ask(**given)
        messages.append((type(error.value), str(error.value).splitlines()[0]))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("repeat", [0, -1, 1.5, True, "3", None])
def test_repeat_is_a_positive_number(repeat: object) -> None:
    step, feeds = tiny()
    with pytest.raises(FeedError, match="positive number of steps"):
        step.timeline(**feeds, repeat=repeat)


def test_a_record_that_is_too_long_is_refused_and_parameters_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    step, feeds = recurrent(threads=1)
    before = step.state_dict()
    monkeypatch.setattr(recording, "FIRST_ROOM", 8)
    monkeypatch.setattr(recording, "MOST_ROOM", 16)
    with pytest.raises(GraphError, match=r"timeline: .* times on one thread, more than 16"):
        step.timeline(**feeds)
    assert all(np.array_equal(before[name], value) for name, value in step.state_dict().items())


@pytest.mark.usefixtures("several_threads")
def test_room_grows_until_a_step_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FIRST_ROOM", 2)
    step, feeds = recurrent(threads=2)
    timeline = step.timeline(**feeds, repeat=1)
    check_sound(timeline)
    plan = step.specialize().plan
    assert all(k.runs == often for k, (_, often) in zip(timeline.kernels, plan.runs, strict=False))


def test_open_sizes_have_timelines_of_their_own() -> None:
    step, feeds = open_batch(threads=2)
    smaller = {name: value[:24] for name, value in feeds.items()}
    flops = [sum(k.flops for k in step.timeline(**f, repeat=1).kernels) for f in (feeds, smaller, feeds)]
    assert flops[0] == flops[2] == step.specialize(batch=160).plan.flops and flops[1] == step.specialize(batch=24).plan.flops


def test_a_program_that_was_watched_is_freed_at_once() -> None:
    step, feeds = large(threads=2)
    step.timeline(**feeds, repeat=1)
    cell = weakref.ref(next(iter(step.graph.cells())))
    executable = weakref.ref(step.specialize().executable)
    gc.disable()
    try:
        del step
        assert executable() is None and cell() is None
    finally:
        gc.enable()


# -- the clock -----------------------------------------------------------------------------------------------------


def test_a_tick_is_as_long_as_it_is_said_to_be() -> None:
    counter = clock.counter_of(host())
    if counter is None:
        assert clock.Calibration(None).microseconds() == 1e-3
        return
    tick = clock.Calibration(counter).microseconds()
    calibration = clock.Calibration(counter)
    time.sleep(0.03)
    nanoseconds, ticks = np.subtract(calibration._both(), calibration.begin)
    assert nanoseconds > 3e7 and abs(ticks * tick * 1e3 / nanoseconds - 1) < 0.01


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("case", [recurrent, tiny])
def test_without_a_counter_the_system_is_asked(case, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (marks, recording):
        monkeypatch.setattr(module, "counter_of", lambda target: None)
    step, feeds = case(threads=2)
    begin = time.perf_counter()
    timeline = step.timeline(**feeds, repeat=3)
    passed = (time.perf_counter() - begin) * 1e6
    check_sound(timeline)
    assert 0 < timeline.steps_us.sum() + timeline.plain_us.sum() < passed
    assert "rdtsc" not in step.specialize().executable._recording.code.assembly()


@pytest.mark.parametrize(("triple", "cpu", "instruction"), [
    ("x86_64-unknown-linux-gnu", "skylake", "rdtsc"), ("x86_64-pc-windows-msvc", "skylake", "rdtsc"),
    ("aarch64-unknown-linux-gnu", "neoverse-v1", "CNTVCT_EL0"), ("arm64-apple-darwin", "apple-m1", "CNTVCT_EL0"),
    ("riscv64-unknown-linux-gnu", "", "rdtime"), ("loongarch64-unknown-linux-gnu", "", "jirl")])
def test_steady_counters_of_other_machines(triple: str, cpu: str, instruction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is one that a system keeps programs from reading."""
    monkeypatch.setattr(clock, "AVAILABLE", "/missing")
    target = describe(triple, cpu, "")
    module = Module()
    f = module.function("read", [("words", "ptr")], returns="i64", internal=False)
    f.ret(clock.emit_read(f, clock.counter_of(target), f.parameters[0]))
    assembly = assembly_for(module.text(), target)
    assert instruction.lower() in assembly.lower() and "pmccntr" not in assembly.lower() and "rdcycle" not in assembly.lower()


@pytest.mark.parametrize(("available", "trusted"), [("tsc kvm-clock\n", True), ("kvm-clock acpi_pm\n", False)])
def test_a_counter_that_the_system_does_not_trust_is_not_read(available: str, trusted: bool, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "available").write_text(available)
    monkeypatch.setattr(clock, "AVAILABLE", str(tmp_path / "available"))
    monkeypatch.setattr(clock.sys, "platform", "linux")
    assert (clock.counter_of(describe("x86_64-unknown-linux-gnu", "skylake", "")) is not None) == trusted
