"""What evaluates combinations: fastcomb, and the ways a competent user would write it without.

Each contender is built once for a workload and a dtype and then called with no arguments; a call evaluates
:func:`combinations` combinations (uniform element-wise coefficients, mixed in float32) and returns their
mean losses. BatchNorm keeps the first network's statistics everywhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

import fastcomb as fc
from benchmarks.workloads import Workload

Call = Callable[[], Any]


class _Torch:
    """What the torch peers share: both networks' parameters, the data in the compute dtype."""

    def __init__(self, workload: Workload, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device
        a, b = (model.to(device) for model in workload.pair())
        self.a = {n: p.detach().clone() for n, p in a.named_parameters()}
        self.delta = {n: p.detach() - self.a[n] for n, p in b.named_parameters()}
        self.model = a.to(dtype)
        x, y = workload.data()
        self.x, self.y = x.to(device, dtype if x.is_floating_point() else None), y.to(device)

    def mixed(self, *leading: int) -> dict[str, Tensor]:
        return {
            n: (a + torch.rand(*leading, *a.shape, device=self.device) * self.delta[n]).to(self.dtype)
            for n, a in self.a.items()
        }

    def one(self) -> tuple[Tensor, Tensor]:
        logits = functional_call(self.model, self.mixed(), (self.x,)).float()
        return F.cross_entropy(logits, self.y), (logits.argmax(1) == self.y).float().mean()


def fastcomb_(workload: Workload, dtype: torch.dtype, backend: str = "native") -> Call:
    a, b = workload.pair()
    name = "fastcomb" if backend == "native" else "fastcomb on torch"
    data = workload.data()

    def call() -> Any:
        return fc.evaluate(
            a,
            b,
            fc.Uniform(),
            data=data,
            n=combinations(name, workload),
            dtype=dtype,
            batch_norm="a",
            backend=backend,
            progress=False,
        ).loss

    return call


def fastcomb_on_torch(workload: Workload, dtype: torch.dtype) -> Call:
    return fastcomb_(workload, dtype, "torch_reference")


def torch_loop(workload: Workload, dtype: torch.dtype, device: str = "cpu") -> Call:
    peer = _Torch(workload, dtype, device)
    return torch.no_grad()(lambda: [peer.one() for _ in range(workload.combinations)])


def torch_compiled_loop(workload: Workload, dtype: torch.dtype, device: str = "cpu") -> Call:
    peer = _Torch(workload, dtype, device)
    torch.compiler.reset()  # else the workloads before count towards the limit of recompilations
    one = torch.compile(peer.one)
    return torch.no_grad()(lambda: [one() for _ in range(workload.combinations)])


def torch_vmap(workload: Workload, dtype: torch.dtype, device: str = "cpu") -> Call:
    peer = _Torch(workload, dtype, device)
    k = workload.stacked
    forward = vmap(lambda parameters: functional_call(peer.model, parameters, (peer.x,)))

    def batch() -> tuple[Tensor, Tensor]:
        logits = forward(peer.mixed(k)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), peer.y.repeat(k), reduction="none").view(k, -1).mean(1)
        return losses, (logits.argmax(2) == peer.y).float().mean(1)

    return torch.no_grad()(lambda: [batch() for _ in range(workload.combinations // k)])


def jax_map(workload: Workload, dtype: torch.dtype) -> Call:
    return _jax(workload, dtype, batch=None)


def jax_vmap(workload: Workload, dtype: torch.dtype) -> Call:
    return _jax(workload, dtype, batch=workload.stacked)


def _jax(workload: Workload, dtype: torch.dtype, batch: int | None) -> Call:
    import jax
    import jax.numpy as jnp

    peer = _Torch(workload, torch.float32, "cpu")
    program = fc.capture(peer.model, peer.x[:2])
    kind = {torch.float32: jnp.float32, torch.bfloat16: jnp.bfloat16}[dtype]
    a, delta = ({n: jnp.asarray(t.numpy()) for n, t in side.items()} for side in (peer.a, peer.delta))
    buffers = {n: jnp.asarray(b.numpy()).astype(kind) for n, b in peer.model.named_buffers() if b.ndim}
    x, y = jnp.asarray(peer.x.numpy()).astype(kind), jnp.asarray(peer.y.numpy())

    def one(key: Any) -> Any:
        keys = jax.random.split(key, len(a))
        mixed = {
            n: (a[n] + jax.random.uniform(k, a[n].shape) * delta[n]).astype(kind)
            for k, n in zip(keys, a, strict=True)
        }
        logits = _run_in_jax(program, mixed | buffers, x).astype(jnp.float32)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()
        return losses, (logits.argmax(1) == y).mean()

    def call(key: Any) -> Any:
        return jax.lax.map(one, jax.random.split(key, workload.combinations), batch_size=batch)

    compiled = jax.jit(call)
    return lambda: jax.block_until_ready(compiled(jax.random.key(0)))


def _run_in_jax(program: fc.Program, weights: dict[str, Any], x: Any) -> Any:
    """The few operations of the workloads, in JAX."""
    import jax
    import jax.numpy as jnp

    values = dict(zip(program.inputs, [x], strict=True))
    for node in program:
        get: dict[str, Any] = {
            k: weights.get(v.name) if hasattr(v, "kind") else values[v.name] if hasattr(v, "name") else v
            for k, v in node.arguments.items()
        }
        first: Any = next(iter(get.values()))
        if node.op == "linear":
            value = first @ get["weight"].T + get["bias"]
        elif node.op == "conv2d":
            pads = [(p, p) for p in get["padding"]]
            value = jax.lax.conv_general_dilated(first, get["weight"], get["stride"], pads)
            value = value if get["bias"] is None else value + get["bias"][:, None, None]
        elif node.op == "batch_norm":
            scale = get["weight"] * jax.lax.rsqrt(get["running_var"] + get["eps"])
            shift = get["bias"] - get["running_mean"] * scale
            value = first * scale[:, None, None] + shift[:, None, None]
        elif node.op == "relu":
            value = jax.nn.relu(first)
        elif node.op == "add":
            value = first + get["other"]
        elif node.op == "mean":
            value = first.mean(tuple(get["dim"]))
        elif node.op == "flatten":
            value = jnp.reshape(first, (first.shape[0], -1))
        else:
            raise ValueError(f"no JAX form of {node.op}")
        values[node.name] = value
    return values[program.output.name]


PEERS: dict[str, Callable[[Workload, torch.dtype], Call]] = {
    "torch loop": torch_loop,
    "torch.compile loop": torch_compiled_loop,
    "torch vmap": torch_vmap,
    "jax lax.map": jax_map,
    "jax vmap": jax_vmap,
}
CONTENDERS = {"fastcomb": fastcomb_, "fastcomb on torch": fastcomb_on_torch} | PEERS


def combinations(name: str, workload: Workload) -> int:
    """How many a contender's call evaluates: more for ``evaluate``, which plans anew in every call."""
    return workload.combinations * {"fastcomb": 32, "fastcomb on torch": 4}.get(name, 1)


def mean_loss(result: Any) -> float:
    """Mean loss of what a contender returned."""
    if isinstance(result, list):
        return float(np.mean([float(loss.mean()) for loss, _ in result]))
    return float(np.mean(np.asarray(result[0] if isinstance(result, tuple) else result)))


def available(name: str, workload: Workload) -> bool:
    """Whether a contender can run a workload: JAX knows few operations, and LSTMs have no rule for vmap."""
    if name.startswith("jax"):
        return importlib.util.find_spec("jax") is not None and workload.name.startswith("W")
    return (name, workload.name) != ("torch vmap", "lstm")
