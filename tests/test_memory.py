"""Memory that a program says it needs, and memory that it takes."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphc.passes.memory import Life, place
from graphc.passes.order import Memory, least_memory, ordered
from graphc.passes.pipeline import Pipeline, laid_out
from graphc.runtime.native.emit import Function
from graphc.runtime.native.executable import Native
from graphc.runtime.native.kept import machine

import graphc
from graphc import nn, optim
from graphc.cells import Cell, is_one_zero, kept
from graphc.garbage import kept_waiting
from graphc.ir import topological
from graphc.pages import HUGE_PAGE, LINE, PAGE, Slab
from graphc.plan import Buffer, Plan, Role
from graphc.symbols import Tensor
from graphc.types import TensorType, bool_

ROOT = Path(__file__).resolve().parent.parent

# -- the arena -------------------------------------------------------------------------------------------------------


def perceptron() -> Tensor:
    return nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(48, 48), nn.GELU())))(graphc.placeholder("x", (64, 48)))


def convolutions() -> Tensor:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(),
              nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)]
    return nn.Sequential(*layers)(graphc.placeholder("x", (8, 3, 12, 12)))


def recurrent() -> Tensor:
    return nn.LSTM(6, 16, 2)(graphc.placeholder("x", (9, 5, 6)))[0]


def attention() -> Tensor:
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1)(graphc.placeholder("x", (10, 4, 32)))


def densely_connected() -> Tensor:
    found = [graphc.placeholder("x", (32, 64))]
    for k in range(8):
        found.append(nn.Linear(sum(int(h.shape[1]) for h in found), 16 + 8 * (k % 3))(graphc.concat(found, 1)).tanh())
    return graphc.concat(found, 1)


def plan_of(build: Callable[[], Tensor], **options: object) -> tuple[graphc.Program, Plan]:
    graphc.manual_seed(0)
    out = build()
    loss = (out * out).mean()
    weights = [graphc.Parameter(n) for n in topological([loss.node])
               if "cell" in n.attributes and n.attributes["cell"].trainable]
    program = graphc.train_step(loss, optim.Adam(weights), backend="numpy", **options)
    return program, laid_out(Pipeline().concrete(program.simplified, {}))[1]


@pytest.mark.parametrize("build", [perceptron, convolutions, recurrent, attention, densely_connected],
                         ids=lambda b: b.__name__)
@pytest.mark.parametrize("options", [{}, {"grad_clip_norm": 1.0}], ids=["fused", "clipped"])
def test_the_arena_is_close_to_the_largest_live_set(build: Callable[[], Tensor], options: dict[str, float]) -> None:
    program, plan = plan_of(build, **options)
    assert plan.live_bytes <= plan.arena_bytes <= 1.05 * plan.live_bytes
    assert "x the largest live set" in program.report()


def buffer(size: int) -> Buffer:
    return Buffer(f"b{size}", TensorType(bool_, (size,)), Role.TEMPORARY)


def test_what_large_ones_first_places_badly_is_placed_again() -> None:
    """Two buffers that leave a hole in the middle: whatever is placed in the order of size does not fit."""
    sizes = [(128, 0, 2), (128, 3, 5), (192, 2, 3), (64, 0, 1), (64, 4, 5), (64, 1, 2), (64, 3, 4)]
    lives = {buffer(size): Life(first, last) for size, first, last in sizes}
    live = max(sum(b.bytes for b, life in lives.items() if life.first <= t <= life.last) for t in range(6))
    offsets, total = place(lives, live)
    assert total <= 1.05 * live
    for a, one in lives.items():
        for b, other in lives.items():
            if a is not b and one.first <= other.last and other.first <= one.last:
                assert offsets[a] + a.bytes <= offsets[b] or offsets[b] + b.bytes <= offsets[a]


def test_a_gradient_is_kept_no_longer_than_until_its_update() -> None:
    x = graphc.placeholder("x", (64, 32))
    weights = [graphc.parameter(f"w{k}", np.eye(32)) for k in range(10)]
    h = x
    for w in weights:
        h = (h @ w).tanh()
    plan = graphc.train_step((h * h).mean(), optim.SGD(weights, lr=0.1), backend="numpy").specialize().plan
    one = 64 * 32 * 4
    assert plan.arena_bytes <= 12 * one  # ten values, and the gradients of two layers
    kernels = list(plan.kernels)
    memory = Memory(kernels, {b for k in kernels for b in k.writes if plan.home(b).role is Role.TEMPORARY})
    ordered([set(range(i + 1, len(kernels))) for i in range(len(kernels))], memory, lambda i, added: i, True)
    assert memory.peak == plan.live_bytes


def test_the_graphs_own_order_wins_where_nothing_is_better() -> None:
    plan = graphc.function([x := graphc.placeholder("x", (8,))], [x.exp(), x.sin().sum()], backend="numpy").specialize().plan
    kernels = list(plan.kernels)
    assert least_memory(kernels, [set() for _ in kernels], set()) == list(range(len(kernels)))


# -- the process -----------------------------------------------------------------------------------------------------


def test_a_program_says_what_it_needs_by_purpose() -> None:
    x, w = graphc.placeholder("x", ("n", 64)), graphc.parameter("w", np.ones((64, 32)))
    table = np.arange(64.0, dtype=np.float32)
    step = graphc.train_step(((x * table) @ w).tanh().sum(), optim.Adam([w]), outputs=[x @ w])
    for program in (step, graphc.function([x], x * table, backend="numpy")):
        memory = program.specialize(n=100).memory
        assert memory.inputs == 100 * 64 * 4 and memory.constants == 64 * 4
        assert memory.total == sum((memory.cells, memory.arena, memory.inputs, memory.outputs, memory.constants,
                                    memory.scratch))
    memory = step.specialize(n=100).memory
    assert memory.cells >= 3 * 64 * 32 * 4 and memory.outputs == 4 + 100 * 32 * 4 and memory.scratch > 0
    assert "in all" in step.report(n=100)


MEASURE = """
import sys
import numpy as np
import graphc
from graphc import nn, optim
sizes, batch = {sizes}, {batch}
np.random.default_rng(0).standard_normal(10)
graphc.manual_seed(0)
model = nn.Sequential(*(m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.{activation}())))
x, y = graphc.placeholder("x", ("batch", sizes[0])), graphc.placeholder("y", ("batch",), "int64")
step = graphc.train_step(nn.CrossEntropyLoss()(model(x), y), optim.Adam(model.parameters()))
X, Y = np.zeros((batch, sizes[0]), np.float32), np.zeros(batch, np.int64)
X += 1
step(X, Y)
step.run(3, X, Y)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) * 1024, step.specialize(batch=batch).memory.total)
"""


def measured(sizes: Sequence[int], batch: int, activation: str, folder: Path, kept: str) -> tuple[int, int]:
    """(peak resident bytes, planned bytes) of a process that trains; code comes from the disk cache."""
    code = MEASURE.format(sizes=tuple(sizes), batch=batch, activation=activation)
    environment = {**os.environ, "GRAPHC_CACHE": kept, "GRAPHC_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment,
                             check=True).stdout.split()
    return int(out[0]), int(out[1])


MODELS = (((784, 512, 512, 10), 128, "ReLU"), ((256,) * 8 + (10,), 2048, "Tanh"), ((64, 2048, 2048, 10), 64, "ReLU"))


@pytest.mark.parametrize("kept", ["objects", "programs"])
def test_a_process_takes_little_more_than_what_was_planned(kept: str, tmp_path: Path) -> None:
    """Beyond a process that trains a tiny model: parameters once, slots once, the arena once."""
    if not Path("/proc/self/status").exists():
        return  # resident peaks are read where Linux says them
    empty, _ = measured((8, 8, 8, 10), 4, "ReLU", tmp_path, kept)
    for sizes, batch, activation in MODELS:
        peak, planned = measured(sizes, batch, activation, tmp_path, kept)
        assert peak - empty <= 1.2 * planned, f"{sizes}: {peak - empty:,} bytes for {planned:,} planned"


TINY_JIT = """
import numpy as np, llvmlite.binding as llvm
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_default_triple().create_target_machine()
engine = llvm.create_mcjit_compiler(llvm.parse_assembly("define i64 @f() { ret i64 3 }"), machine)
engine.finalize_object()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_a_process_whose_program_is_kept_takes_less_than_llvm(tmp_path: Path) -> None:
    """784-512-512-10 trains in less memory than numpy, llvmlite and one tiny function take alone."""
    if machine() is None:
        return  # nothing is kept there
    alone = subprocess.run([sys.executable, "-c", TINY_JIT], capture_output=True, text=True, check=True).stdout
    sizes, batch, activation = MODELS[0]
    assert measured(sizes, batch, activation, tmp_path, "programs")[0] < int(alone) * 1024


LOADED = """
import sys
import numpy as np
import graphc
from graphc import nn, optim
graphc.manual_seed(0)
model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
model.load_state_dict({"0.weight": np.ones((9, 4)), "2.weight": np.ones((2, 12)), "2.bias": np.zeros(2)})
step = graphc.train_step(model(graphc.placeholder("x", (5, 3), "int64")).sum(), optim.Adam(model.parameters()))
step(np.zeros((5, 3), np.int64))
print([name for name in ("numpy.random", "hashlib", "secrets") if name in sys.modules])
model[2].reset_parameters()
assert model[2].weight.numpy().std() > 0
"""


def test_who_loads_a_checkpoint_loads_no_random_numbers_and_who_has_no_cache_no_hash() -> None:
    """The two libraries would be 10 MB of the process."""
    environment = {**os.environ, "GRAPHC_CACHE": "0", "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("array, same", [
    (np.broadcast_to(0.0, (3, 4)), True), (np.broadcast_to(np.int64(0), (3, 4)), True), (np.array(0.0), True),
    (np.broadcast_to(-0.0, (3, 4)), False), (np.broadcast_to(1.0, (3, 4)), False), (np.broadcast_to(np.nan, 3), False),
    (np.zeros((3, 4)), False), (np.broadcast_to(np.zeros(4), (3, 4)), False), (np.zeros((0, 4)), False)])
def test_a_cell_holds_what_it_is_given(array: np.ndarray, same: bool) -> None:
    assert is_one_zero(array) is same
    held = Cell("c", array, True).array
    assert held.shape == array.shape and held.dtype == array.dtype and held.flags.writeable
    assert held.tobytes() == np.ascontiguousarray(array).tobytes()


def test_zeros_take_no_memory_before_they_are_written() -> None:
    if not Path("/proc/self/statm").exists():
        return
    before = resident()
    cell = graphc.parameter("w", np.broadcast_to(0.0, (4096, 4096))).cell
    optimizer = optim.Adam([w := graphc.parameter("v", np.broadcast_to(0.0, (4096, 4096)))])
    slots = [optimizer.slot(w, name).cell.array for name in ("m", "v")]
    assert resident() - before < 16 << 20 < sum(a.nbytes for a in (cell.array, *slots))
    places = [array.ctypes.data % HUGE_PAGE for array in (cell.array, *slots)]  # in large pages, but not at one place of each
    assert len(set(places)) == 3 and all(place < PAGE and place % LINE == 0 for place in places)
    assert not cell.array[::512].any()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_arrays_of_middle_size_share_large_pages_and_nothing_else() -> None:
    own = Slab()
    rooms = [own.take(size) for size in (700_001, 1 << 20, 3 << 20, 1 << 20, own.SIZE)]
    slabs = {id(room.base) for room in rooms}
    assert len(slabs) == 2  # the last one has a slab by itself
    starts = [room.ctypes.data for room in rooms]
    assert all(start % LINE == 0 for start in starts) and all(starts[i] % HUGE_PAGE < PAGE for i in (0, 4))
    for number, room in enumerate(rooms, 1):
        assert not room[::4096].any()
        room[:] = number
    assert all(room[0] == room[-1] == number for number, room in enumerate(rooms, 1))
    places = [start % PAGE for start in (*starts[1:4], starts[4])]
    assert len(set(places)) == 4  # of equal arrays, equal elements are at different places of a small page


def test_the_pages_of_a_slab_are_freed_with_the_last_array() -> None:
    own = Slab()
    first, second = (np.ndarray((512, 512), np.float32, own.take(1 << 20).data) for _ in range(2))
    pages: Any = first
    while not isinstance(pages, mmap.mmap):
        pages = pages.obj if isinstance(pages, memoryview) else pages.base
    alive = weakref.ref(pages)
    del own, pages, first
    assert alive() is not None and not second.any()
    del second
    assert alive() is None


def test_cells_of_middle_size_lie_in_one_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.cells.slab", Slab())  # of one that others have begun they might get the end
    cells = [Cell(f"w{i}", np.full((512, 300), i, np.float32), True) for i in range(3)]  # 600 KiB each
    addresses = [cell.array.ctypes.data for cell in cells]
    assert max(addresses) - min(addresses) < Slab.SIZE
    assert all((cell.array == i).all() for i, cell in enumerate(cells))


def test_what_was_made_without_collections_is_old_and_what_was_frozen_stays_so() -> None:
    gc.collect()
    with kept_waiting():
        assert not gc.isenabled()
        made = [[k] for k in range(5000)]
    assert gc.isenabled() and gc.get_count()[0] < 5000
    assert any(o is made for o in gc.get_objects(generation=2))
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with kept_waiting():
            more = [[k] for k in range(5000)]
        assert gc.get_freeze_count() == frozen and gc.isenabled() and len(more) == len(made)
    finally:
        gc.unfreeze()


def test_texts_go_when_they_are_compiled() -> None:
    """Not only when garbage is collected: a long step has megabytes of them."""
    x, w = graphc.placeholder("x", (64, 64)), graphc.parameter("w", np.ones((64, 64)))
    step = graphc.train_step((x @ w).tanh().sum(), optim.Adam([w]))
    gc.collect()
    with kept_waiting():
        assert isinstance(step.specialize().executable, Native)
        assert not [o for o in gc.get_objects() if type(o) is Function and o.name in ("run", "step", "k0_map")]


def test_cells_keep_their_values_however_it_ends() -> None:
    cells = [Cell(name, np.full(3, value, np.float32), trainable=True) for name, value in (("a", 1.0), ("b", 2.0))]
    with pytest.raises(KeyboardInterrupt), kept(cells) as before:
        for cell in cells:
            cell.array[...] = 7.0
        assert [float(v[0]) for v in before.values()] == [1.0, 2.0]
        raise KeyboardInterrupt
    assert [float(cell.array[0]) for cell in cells] == [1.0, 2.0]
