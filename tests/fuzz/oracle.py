"""What plain torch says: combinations loaded into modules of their own, called once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils._pytree import tree_leaves

from fastcomb.mixing.endpoints import RUNNING_STATISTICS
from tests.fuzz.networks import Network

#: Relative size of the disturbances that show how a network magnifies roundings.
_DISTURBANCE = 2e-7

State = dict[str, Tensor]


class Oracle:
    """The two networks' values, and modules for what lies between them.

    Args:
        network: the case; modules are built from its source, never taken from the user's.
        choice: what becomes of buffers that differ, running statistics too: "a" or "lerp".
        mean: of the sampler, for "lerp".
    """

    def __init__(self, network: Network, choice: str, mean: float) -> None:
        self.network = network
        built = network.build("a"), network.build("b")
        self.a, self.b = ({n: p.detach().clone() for n, p in m.named_parameters()} for m in built)
        self.buffers_a, self.buffers_b = (
            {n: b.detach().clone() for n, b in m.named_buffers()} for m in built
        )
        self.edit: Callable[[nn.Module], None] = lambda module: (
            None
        )  # what a user did to the module's attributes
        self._loss = network.score()
        self._choice, self._mean = choice, mean

    @property
    def differing(self) -> list[str]:
        """Buffers that differ between the networks and are no running statistics of a norm layer."""
        module = self.network.build("a")
        found = []
        for name, value in self.buffers_a.items():
            owner, _, last = name.rpartition(".")
            norm = isinstance(module.get_submodule(owner), nn.modules.batchnorm._NormBase)
            if not (norm and last in (*RUNNING_STATISTICS, "num_batches_tracked")):
                found += [name] * (not _equal(value, self.buffers_b[name]))
        return found

    @property
    def fixed(self) -> list[str]:
        """Parameters that are neither mixed nor the same in both networks."""
        return [n for n, p in self.a.items() if not p.is_floating_point() and not torch.equal(p, self.b[n])]

    def theta(self, coefficients: Mapping[str, Tensor]) -> State:
        """θ_A + λ (θ_B − θ_A): the difference rounded to float32, then one rounding."""
        state = dict(self.a)
        for name, lam in coefficients.items():
            a, b = self.a[name].float(), self.b[name].float()
            mixed = (lam.double() * (b - a).double() + a.double()).float()
            state[name] = torch.where(lam == 1, b, torch.where(lam == 0, a, mixed)).to(self.a[name].dtype)
        return state

    def end(self, which: str) -> State:
        """One of the networks themselves; float64 weights as float32, in which they are mixed, has them."""
        own = self.a if which == "a" else self.b
        return {n: p.float().double() if p.dtype == torch.float64 else p for n, p in own.items()}

    @torch.no_grad()
    def module(self, theta: State, buffers: str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """A fresh module in eval mode with these weights; buffers by the choice, or "a" or "b"."""
        module = self.network.build("a", fresh=True)
        self.edit(module)
        for name, parameter in module.named_parameters():
            parameter.copy_(theta[name])
        for name, buffer in module.named_buffers():
            buffer.copy_(self._buffer(name, buffers))
        return module if dtype is None else module.to(dtype)

    def _buffer(self, name: str, which: str | None) -> Tensor:
        a, b = self.buffers_a[name], self.buffers_b[name]
        if which is not None:
            return a if which == "a" else b
        if self._choice == "a" or not a.is_floating_point() or _equal(a, b):  # which may be infinite
            return a
        return (a.double() + self._mean * (b.double() - a.double())).to(a.dtype)

    @torch.no_grad()
    def output(
        self, theta: State, x: Tensor, buffers: str | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """A fresh module's output; x is not changed."""
        module = self.module(theta, buffers, dtype)
        x = x.detach().clone()
        return module(x.to(dtype) if dtype and x.is_floating_point() else x)

    @torch.no_grad()
    def losses(self, output: Any, y: Tensor) -> Tensor:
        """Loss of every sample [N]."""
        output = widened(output)
        if callable(self._loss):
            return self._loss(output, y)
        function = getattr(
            torch.nn.functional, {"nll": "nll_loss", "mse": "mse_loss"}.get(self._loss, self._loss)
        )
        each: Tensor = function(output, y, reduction="none")
        return each.flatten(1).mean(1) if each.ndim > 1 else each

    def disturbed(self, theta: State, draw: int, size: float = _DISTURBANCE) -> State:
        """The weights with errors as rounding makes them."""
        generator = torch.Generator().manual_seed(draw)
        return {
            n: v * (1 + size * torch.randn(v.shape, generator=generator, dtype=v.dtype))
            if v.dtype in (torch.float32, torch.float64)
            else v
            for n, v in theta.items()
        }

    def rounding(self, theta: State, x: Tensor, buffers: str | None, measure: Callable[[Any], Any]) -> float:
        """How far roundings may move a measure of the output: tensors of one or several shapes."""
        narrow = self.network.dtype == torch.bfloat16
        own = measure(self.output(theta, x, buffers))
        pairs = []
        if narrow:
            # against float32, and, since one difference may happen to be small, as float32 itself moves when
            # weights are rounded to bfloat16 once more
            wide = {n: v.float() if v.is_floating_point() else v for n, v in theta.items()}
            exact = measure(self.output(wide, x, buffers, torch.float32))
            pairs.append((own, exact))
            for draw in range(2):
                moved = self.disturbed(wide, draw, torch.finfo(torch.bfloat16).eps / 2)
                pairs.append((exact, measure(self.output(moved, x, buffers, torch.float32))))
        else:
            for draw in range(2):
                pairs.append((own, measure(self.output(self.disturbed(theta, draw), x, buffers))))
        errors = [
            float((a.double() - b.double()).abs().max())
            for one, other in pairs
            for a, b in zip(one, other, strict=True)
            if a.numel() and not a.is_complex()
        ]
        return max(errors, default=0.0) * (0.5 if narrow else 1.0)

    def recomputed(self, theta: State, batches: list[Tensor]) -> nn.Module:
        """The module with statistics by :func:`torch.optim.swa_utils.update_bn`, all else in eval mode."""
        module = self.module(theta, "a")
        for part in module.modules():
            part.training = isinstance(part, nn.modules.batchnorm._BatchNorm)
        module.train = lambda mode=True: module  # type: ignore[method-assign, assignment]
        with torch.no_grad():
            update_bn([batch.clone() for batch in batches], module)
        del module.train
        return module.eval()


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 0, 0, equal_nan=True)


def widened(output: Any) -> Any:
    """The output with half precision as float32."""
    return torch.utils._pytree.tree_map(
        lambda t: t.float() if isinstance(t, Tensor) and t.dtype in (torch.bfloat16, torch.float16) else t,
        output,
    )


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, also of a dataclass that pytrees do not know."""
    if hasattr(output, "__dataclass_fields__"):
        output = [getattr(output, name) for name in output.__dataclass_fields__]
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
