"""Programs: compiled steps, and everything that can be asked of one.

Knows how a call's arrays meet a program's inputs, and which sizes were compiled.  Must not know how graphs are collected from
symbols, or how they are compiled.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from .assumed import Assumed
from .built import Built
from .errors import CheckpointError, FeedError, GraphError
from .feeds import assign, convert, names_in_order, solve_sizes
from .garbage import kept_waiting
from .ir import Graph, make
from .op import REGISTRY
from .origins import at, user_origin
from .precision import checked
from .structures import Structure
from .symbols import Parameter, Tensor

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from .specialized import Specialized
    from .timeline import Timeline

inspecting: ContextVar[bool] = ContextVar("inspecting", default=False)  # a file is only being looked at: run nothing

CHUNK_SECONDS = 0.1  # a long run is cut into calls of about this length, so that Ctrl-C is heard


class Program:
    """A compiled step: call it with arrays.  Made by `function` and `train_step`.

    graph       as the user built it
    inputs      placeholders, in the order of positional arguments
    parameters  every parameter and state that it reads or updates
    backend     "native" or "numpy"
    """

    def __init__(self, graph: Graph | Built, structure: Structure, *, backend: str = "native", threads: int | None = None,
                 memory_budget: int | None = None, check_numerics: bool = False, matmul_precision: str | None = None,
                 name: str = "program") -> None:
        if backend not in ("native", "numpy"):
            raise GraphError(f"backend must be 'native' or 'numpy', got {backend!r}{at(user_origin())}")
        if threads is not None and threads < 1:
            raise GraphError(f"threads must be at least 1, got {threads}{at(user_origin())}")
        if memory_budget is not None and (not isinstance(memory_budget, (int, np.integer)) or memory_budget < 0):
            raise GraphError(f"memory_budget is a number of bytes, got {memory_budget!r}{at(user_origin())}")
        self.built = graph if isinstance(graph, Built) else Built(graph)
        self.structure, self.name = structure, name
        self.backend = _usable(backend)
        self.threads, self.memory_budget, self.check_numerics = threads, memory_budget, check_numerics
        self.matmul_precision = checked(matmul_precision)
        self.after_call: list[Any] = []  # schedulers that are no formula: stepped after each call
        self.inputs = [Tensor(n) for n in self.built.inputs]
        self._plain = [(n.attributes["name"], n.dtype.numpy) for n in self.built.inputs]
        self._lock = threading.RLock()
        self._cache: dict[tuple[tuple[str, int], ...], Specialized] = {}
        self._simplified: Graph | None = None
        self._by_shapes: dict[tuple, Specialized] = {}
        self.seconds: dict[str, float] = {}

    def __repr__(self) -> str:
        inputs = ", ".join(f"{n}: {t.type}" for n, t in zip(names_in_order(self.built.inputs), self.inputs, strict=True))
        return f"<Program {self.name}({inputs}) on {self.backend}, {self.built.updates} updates>"

    @property
    def graph(self) -> Graph:
        """As the user built it; where another process has left the program on disk it is derived when it is asked for."""
        return self.built.graph

    @property
    def parameters(self) -> list[Parameter]:
        """Every parameter and state that the program reads or updates."""
        return [Parameter(make(REGISTRY["parameter"], (), {"cell": cell}), cell.trainable)
                for cell in self.built.cells()]

    # -- compiling ---------------------------------------------------------------------------------------------

    @property
    def simplified(self) -> Graph:
        """The graph after expansion and simplification, sizes still open."""
        if self._simplified is not None:
            return self._simplified
        from .passes.pipeline import Pipeline  # passes load with the first program that is compiled

        with kept_waiting():
            pipeline = Pipeline(seconds=self.seconds)
            self._simplified = pipeline.simplified(self.graph)
        return self._simplified

    def specialize(self, **sizes: int) -> Specialized:
        """The program for these sizes of its open dimensions; compiled once, then kept."""
        names = self.built.open_sizes
        if set(sizes) != set(names):
            raise FeedError(f"specialize: open sizes are {', '.join(names) or 'none'}, "
                            f"got {', '.join(sorted(sizes)) or 'none'}{at(user_origin())}")
        with self._lock:
            return self._specialized(sizes)

    @kept_waiting()
    def _specialized(self, sizes: Mapping[str, int]) -> Specialized:
        key = tuple(sorted(sizes.items()))
        known = self._cache.get(key)
        if known is None or not known.assumed.holds():
            assumed = Assumed.of(self.built.cells())
            if known is not None and known.assumed.masks == assumed.masks:
                known.assumed.versions = assumed.versions
                return known
            from .specialized import Options, specialize

            options = Options(self.backend, self.threads, self.memory_budget, self.matmul_precision)
            known = self._cache[key] = specialize(self.name, self.built, lambda: self.simplified, sizes, options, assumed)
        return known

    # -- running -----------------------------------------------------------------------------------------------

    def _known_feed(self, positional: Sequence[Any], named: Mapping[str, Any]
                    ) -> tuple[Specialized, Sequence[np.ndarray]] | None:
        """The road of every call but the first of its kind: arrays that need no conversion, of shapes seen before."""
        if not named:
            values: Sequence[Any] = positional
        elif positional:
            return None
        else:
            values = [named.get(name) for name, _ in self._plain]
        if len(values) != len(self._plain) or len(named) > len(values):
            return None
        for value, (_, dtype) in zip(values, self._plain, strict=True):
            if type(value) is not np.ndarray or value.dtype is not dtype or not value.flags.c_contiguous:
                return None
        special = self._by_shapes.get(tuple([value.shape for value in values]))
        return None if special is None or not special.assumed.holds() else (special, values)

    def _feed(self, positional: Sequence[Any], named: Mapping[str, Any]) -> tuple[Specialized, Sequence[np.ndarray]]:
        known = self._known_feed(positional, named)
        if known is not None:
            return known
        values = assign(self.built.inputs, positional, named)
        arrays = [convert(n, v) for n, v in zip(self.built.inputs, values, strict=True)]
        return self._for(arrays), arrays

    def _for(self, arrays: Sequence[np.ndarray]) -> Specialized:
        shapes = tuple(a.shape for a in arrays)
        found = self._by_shapes.get(shapes)
        if found is None or not found.assumed.holds():
            found = self._by_shapes[shapes] = self._specialized(solve_sizes(self.built.inputs, arrays))
        return found

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Runs one step: arrays in, by position or name; arrays out, in the structure of `outputs`."""
        with self._lock:
            special, arrays = self._feed(positional, named)
            if inspecting.get():
                return self.structure.build(iter(_zeros(special)))
            outputs = self._run(special, arrays, 1, [False] * len(arrays))
            self._stepped(1)
            return self.structure.build(iter([o[0] if o.ndim > 1 else o.reshape(()) for o in outputs]))

    def prepare(self, arrays: Sequence[np.ndarray]) -> Specialized:
        """Compiles for arrays like these without running."""
        with self._lock:
            return self._feed(arrays, {})[0]

    def _run(self, special: Specialized, arrays: Sequence[np.ndarray], count: int, advance: Sequence[bool]
             ) -> list[np.ndarray]:
        if inspecting.get():  # fit comes this way
            return _zeros(special, count)
        if not self.check_numerics:
            return special.executable.run(arrays, count, advance)
        from .finite import check_finite

        stacks: list[list[np.ndarray]] = []
        for step in range(count):
            now = [a[step] if moves else a for a, moves in zip(arrays, advance, strict=True)]
            before = {cell: cell.array.copy() for cell in self.built.cells()}
            outputs = special.executable.run(now, 1, [False] * len(now))
            check_finite([*outputs, *(cell.array for cell, _ in self.graph.updates)], now, before, lambda: special.graph)
            stacks.append([o[0] for o in outputs])
        return [np.stack(s) for s in zip(*stacks, strict=True)] if stacks else []

    def _stepped(self, count: int) -> None:
        for hook in self.after_call:
            for _ in range(count):
                hook.step()

    def run(self, count: int, *positional: Any, **named: Any) -> Any:
        """`count` steps on the same arrays in native code; each output stacked, bit for bit those of `count` calls."""
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise FeedError(f"run needs a positive number of steps, got {count!r}{at(user_origin())}")
        with self._lock:
            special, arrays = self._feed(positional, named)
            if inspecting.get():
                return self.structure.build(iter(_zeros(special, int(count))))
            outputs = self._run_in_chunks(special, arrays, int(count), [False] * len(arrays))
            return self.structure.build(iter(outputs))

    def _run_in_chunks(self, special: Specialized, arrays: Sequence[np.ndarray], count: int, advance: Sequence[bool],
                       report: Callable[[int, list[np.ndarray]], None] | None = None) -> list[np.ndarray]:
        """A long run in calls of about CHUNK_SECONDS, between which Python hears Ctrl-C and schedulers step."""
        done, chunk = 0, 1
        parts: list[list[np.ndarray]] = []
        while done < count:
            if not special.assumed.holds():  # what steps between two parts has assigned to a mask
                special = self._specialized(special.sizes)
            now = min(chunk, count - done)
            part = [a[done:done + now] if moves else a for a, moves in zip(arrays, advance, strict=True)]
            start = time.perf_counter()
            outputs = self._run(special, part, now, advance)
            taken = time.perf_counter() - start
            parts.append(outputs)
            done += now
            self._stepped(now)
            if not self.after_call:
                chunk = max(1, min(now * 16, int(now * CHUNK_SECONDS / max(taken, 1e-7))))
            if report is not None:
                report(done, outputs)
        return [p[0] if len(p) == 1 else np.concatenate(p) for p in zip(*parts, strict=True)]

    def bind(self, *positional: Any, **named: Any) -> Callable[[], Any]:
        """A function of no arguments that runs one step on these very arrays, whatever they hold at that time.

        The arrays must have the inputs' exact dtypes and be C-contiguous, since they are read in place.  The arrays it
        returns are overwritten by its next call.
        """
        with self._lock:
            values = assign(self.built.inputs, positional, named)
            arrays = []
            for node, value in zip(self.built.inputs, values, strict=True):
                array = convert(node, value)
                if array is not value:
                    raise FeedError(f"bind reads '{node.attributes['name']}' in place: it must be a C-contiguous array "
                                    f"of {node.type.dtype.name}, got {_describe(value)}{at(user_origin())}")
                arrays.append(array)
            special = self._for(arrays)
            if self.check_numerics or self.after_call or inspecting.get():
                return lambda: self(*arrays)
            call, outputs = special.executable.bind(arrays)
            result = self.structure.build(iter(outputs))
            relies, lock = bool(special.assumed.masks), self._lock

            def bound() -> Any:
                nonlocal special, call, outputs, result
                with lock:  # all calls of a program use one memory for what is computed between
                    if relies and not special.assumed.holds():
                        special = self._for(arrays)
                        call, outputs = special.executable.bind(arrays)
                        result = self.structure.build(iter(outputs))
                    call()
                return result

            return bound

    def fit(self, data: Mapping[str, Any], *, batch_size: int, epochs: int = 1, shuffle: bool = True, seed: int = 0,
            progress: bool = True, drop_last: bool = False) -> dict[str, np.ndarray]:
        """Trains on mini-batches: each epoch visits every row once; the last, smaller batch of an epoch too.

        data     arrays by input name, with equal first axes
        shuffle  a new order for each epoch, from `seed`
        progress a progress bar on standard error, where that is a terminal
        Returns {"loss": mean loss of each epoch}, with one entry more per named output.
        """
        from .fit import fit

        return fit(self, data, batch_size=batch_size, epochs=epochs, shuffle=shuffle, seed=seed, progress=progress,
                   drop_last=drop_last)

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and states, by unique name."""
        return {name: cell.array.copy() for cell, name in self.built.names().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Gives all parameters and states the values that `state_dict` saved; nothing changes where anything is off."""
        names = {name: cell for cell, name in self.built.names().items()}
        missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
        if missing or unknown:
            raise CheckpointError(f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}")
        new = {}
        for name, cell in names.items():
            array = np.asarray(state[name])
            if array.shape != cell.shape:
                raise CheckpointError(f"'{name}': expected shape {list(cell.shape)}, got {list(array.shape)}")
            new[cell] = array
        for cell, array in new.items():
            cell.assign(array)

    # -- looking -----------------------------------------------------------------------------------------------

    def dump(self, stage: str = "simplified", format: str = "text", sizes: Mapping[str, int] | None = None) -> Any:
        """The program at a stage: forward, gradient, update, simplified, plan, llvm or asm; see `graphc dump`."""
        from .inspection import dump

        return dump(self, stage, format, sizes)

    def report(self, **sizes: int) -> str:
        """What the compiler did, kernel by kernel, and why."""
        from .inspection import report

        return report(self, sizes)

    def profile(self, *positional: Any, repeat: int = 20, **named: Any) -> str:
        """Time per kernel for these feeds."""
        from .inspection import profile

        with self._lock:
            special, arrays = self._feed(positional, named)
            return profile(self, special, arrays, repeat)

    def timeline(self, *positional: Any, repeat: int = 20, **named: Any) -> Timeline:
        """What each thread of a step did on these feeds, kernel by kernel, measured inside the step as it runs.

        Prints as a table; `.events` and `.waits` are record arrays in microseconds, and `.save` writes trace events (.json)
        for https://ui.perfetto.dev or a picture (.svg).  `repeat` steps are watched, in turns with as many that are not;
        parameters and states are as before afterwards, and schedulers do not step.  Native code that watches itself is
        compiled by the first call for these sizes; with backend="numpy" it is the interpreter that is watched, op by op.

        Raises: FeedError for feeds that a call would refuse, or where `repeat` is no positive number; GraphError where one
        step runs more kernels than can be kept, some 250,000 on a thread.
        """
        from .watching import measure

        with self._lock:
            special, arrays = self._feed(positional, named)
            return measure(self, special, arrays, repeat)

    # -- shipping ----------------------------------------------------------------------------------------------

    def export(self, path: str | PathLike[str], *, target: str | None = None, cpu: str | None = None, features: str = "",
               **sizes: int) -> list[Path]:
        """Writes an object file and a C header, so that the step runs without Python; see `graphc.export`."""
        from .exporting import export

        return export(path, self, target=target, cpu=cpu, features=features, **sizes)


def _zeros(special: Specialized, *lead: int) -> list[np.ndarray]:
    """What a program gives back whose file is only looked at."""
    return [np.zeros((*lead, *map(int, o.shape)), o.dtype.numpy) for o in special.graph.outputs]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        layout = "" if value.flags.c_contiguous else ", not contiguous"
        return f"{value.dtype}{list(value.shape)}{layout}"
    return type(value).__name__


_warned = False


def _usable(backend: str) -> str:
    """The backend that runs here: numpy, with one warning, where llvmlite cannot be used."""
    global _warned
    if backend == "native":
        from importlib.util import find_spec

        if find_spec("llvmlite") is None:
            if not _warned:
                warnings.warn("llvmlite cannot be imported: programs run on numpy, much slower. "
                              "Install it with: pip install llvmlite", RuntimeWarning, stacklevel=4)
                _warned = True
            return "numpy"
    return backend


def sizes_for(program: Program, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Given sizes, 32 for every open dimension that is not given."""
    return {name: (sizes or {}).get(name, 32) for name in program.built.open_sizes}
