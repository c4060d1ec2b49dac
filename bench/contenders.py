"""How each library turns a workload into training steps.

A builder gives `step(n)`, which runs n steps and returns the last loss.  Modes: "call" is one call for each step, "loop" many
steps in one call, "compile" torch.compile of the whole step, "autocast" torch.autocast to bfloat16.  Where contractions may be
less precise, each library is told so by its own setting.  What all start from is made beforehand: it is nobody's work.
Who has copied the state_dict empties it, as a program lets go of a checkpoint that it has loaded; nobody else holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .workload import Values, Workload, is_buffer

Step = Callable[[int], float]


def build_graphc(w: Workload, values: Values, threads: int, mode: str, precision: str) -> Step:
    import graphc

    state, x0, y0 = values
    module = w.model(graphc)
    module.load_state_dict(state)
    state.clear()
    batch = y0.shape[0]
    axis = x0.shape.index(batch)  # the batch is an open dimension, as users write it
    x = graphc.placeholder("x", (*x0.shape[:axis], "batch", *x0.shape[axis + 1:]), x0.dtype.name)
    y = graphc.placeholder("y", ("batch", *y0.shape[1:]), y0.dtype.name)
    optimizer = getattr(graphc.optim, w.optimizer.name)(module.parameters(), **w.optimizer.settings)
    step = graphc.train_step(w.loss(graphc, module, x, y), optimizer, threads=threads, matmul_precision=precision)
    if mode == "loop":
        return lambda n: float(step.run(n, x0, y0)[-1])
    bound = step.bind(x0, y0)

    def run(n: int) -> float:
        for _ in range(n):
            out = bound()
        return float(out)

    return run


def build_torch(w: Workload, values: Values, threads: int, mode: str, precision: str) -> Step:
    from contextlib import nullcontext

    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision if mode != "autocast" else "highest")
    cast = torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext()
    state, x0, y0 = values
    module = w.model(torch)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    state.clear()
    x, y = torch.from_numpy(x0), torch.from_numpy(y0)
    optimizer = getattr(torch.optim, w.optimizer.name)(module.parameters(), **w.optimizer.settings, fused=True)

    def one() -> Any:
        optimizer.zero_grad()
        with cast:
            loss = w.loss(torch, module, x, y)
        loss.backward()
        optimizer.step()
        return loss

    step = torch.compile(one) if mode == "compile" else one

    def run(n: int) -> float:
        for _ in range(n):
            loss = step()
        return float(loss.detach())

    return run


def build_jax(w: Workload, values: Values, threads: int, mode: str, precision: str) -> Step:
    import jax
    import jax.numpy as jnp

    from . import jax_layers

    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[precision])
    loss_of = w.jax
    assert loss_of is not None
    state, x0, y0 = values
    x, y = jnp.asarray(x0), jnp.asarray(y0)
    arrays = {name: jnp.asarray(value) for name, value in state.items()}
    state.clear()
    weights = {n: a for n, a in arrays.items() if not is_buffer(n)}
    held = [(weights, {n: a for n, a in arrays.items() if is_buffer(n)}, jax.tree.map(jnp.zeros_like, weights),
             jax.tree.map(jnp.zeros_like, weights), jnp.zeros(()), jnp.zeros(()))]  # no buffer twice: they are given away

    def one(carried: Any) -> Any:
        p, buffers, m, v, t, _ = carried
        (loss, buffers), g = jax.value_and_grad(lambda p: loss_of(p | buffers, x, y), has_aux=True)(p)
        p, m, v = jax_layers.update(w.optimizer, p, g, m, v, t + 1)
        return p, buffers, m, v, t + 1, loss

    if mode == "loop":
        many = jax.jit(lambda s, n: jax.lax.fori_loop(0, n, lambda _, c: one(c), s), donate_argnums=0)

        def run(n: int) -> float:
            held[0] = many(held[0], n)
            return float(held[0][5])

        return run
    step = jax.jit(one, donate_argnums=0)

    def call(n: int) -> float:
        for _ in range(n):
            held[0] = step(held[0])
        return float(held[0][5])

    return call


def build_numpy(w: Workload, values: Values, threads: int, mode: str, precision: str) -> Step:
    import numpy as np

    from . import numpy_layers

    gradients = w.numpy
    assert gradients is not None
    p, x, y = values
    m, v = ({n: np.zeros_like(a) for n, a in p.items()} for _ in range(2))
    count = 0

    def run(n: int) -> float:
        nonlocal count
        for _ in range(n):
            count += 1
            loss, g = gradients(p, x, y)
            numpy_layers.update(w.optimizer, p, g, m, v, count)
        return loss

    return run


JAX_PRECISION = {"highest": "float32", "high": "bfloat16_3x", "medium": "bfloat16"}
BUILDERS: dict[str, Callable[[Workload, Values, int, str, str], Step]] = {
    "graphc": build_graphc, "numpy": build_numpy, "torch": build_torch, "jax": build_jax}


IN_COLUMNS = ("numpy", "jax")  # the libraries that take weights of linear layers as [in, out]


def build(peer: str, w: Workload, threads: int, mode: str, values: Values | None = None, precision: str = "highest"
          ) -> Callable[[], Step]:
    """What builds the contender, once it is called; its values are at hand then, in the layout that it takes.

    values     in that layout; drawn here where there are none
    precision  of contractions: highest, high or medium, as PyTorch calls them
    """
    given = w.values(columns=peer in IN_COLUMNS) if values is None else values
    return lambda: BUILDERS[peer](w, given, threads, mode, precision)
