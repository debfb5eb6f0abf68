"""One network under test: calls with what they must leave alone, and comparisons with plain torch."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastcomb as fc
from tests.fuzz.networks import Network, formatted
from tests.fuzz.oracle import Oracle, State, tensors, widened
from tests.fuzz.untouched import differences, portrait

_PACKAGE = str(Path(fc.__file__).parent)
_PUBLIC = (ValueError, TypeError, RuntimeError)
#: How often larger than the effect of disturbed weights an error may be, and its least relative size.
_NOISE, RELATIVE = 20.0, 4e-6


@dataclass(frozen=True)
class Finding:
    """The outcome of one call.

    Attributes:
        check: which.
        verdict: "right", "refused", "raised" (an exception that is no clear refusal) or "wrong".
        text: the message, or what was expected and found.
        backend: what ran, where the call says.
    """

    check: str
    verdict: str
    text: str = ""
    backend: str = ""

    def record(self) -> dict[str, str]:
        return asdict(self)


class Trial:
    """One network with its oracle: calls what is given, and records what comes of it.

    Attributes:
        a, b: the user's modules.
        x, y: data as handed over; ``plain`` are the values of x.
        options: what evaluate needs to be told about running statistics and buffers.
        coupled: whether samples influence one another.
        thetas: weights of the first combinations.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rng = network.rng("checks")
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        sampler = eval(network.sampler, {"fc": fc})
        self.sampler = sampler
        self.seed = self.rng.randrange(1 << 40)
        self.choice = self.rng.choice(["a", "lerp"])
        self.oracle = Oracle(network, self.choice, sampler.mean)
        self.renew()
        self.count = self.rng.choice([3, 4, 5])
        self.x, self.y, self.plain = self.data(network.samples, network.data_format, "data")
        self.given = (portrait(self.x), portrait(self.y))
        self.norms = [
            name
            for name, module in self.a.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
        ]
        self.options: dict[str, Any] = {}
        if self.norms:
            self.options["batch_norm"] = self.choice
        if self.oracle.differing:
            self.options["buffers"] = self.choice
        self.coupled = self._coupled()
        self.thetas: list[State] = []

    def _thetas(self) -> tuple[Any, Any]:
        """The networks as they are handed over."""
        if self.network.by_state and self.network.same_buffers:
            return self.a.state_dict(), self.b.state_dict()
        return self.a, self.b

    def renew(self) -> None:
        self.a, self.b = self.network.build("a"), self.network.build("b")

    def data(self, samples: int, how: str, purpose: str) -> tuple[Any, Tensor, Tensor]:
        """x as handed over, y, and the values of x [N, ...] in the dtype that the network computes in."""
        if "is_contiguous" in self.network.source:
            how = "plain"  # such a network computes something else on data that lie otherwise
        x = formatted(self.network.inputs(samples, purpose), how)
        plain = values(x)
        plain = plain.to(self.network.dtype) if plain.is_floating_point() else plain
        given = x.to(plain.dtype) if isinstance(x, Tensor) else plain  # strides and all
        try:
            with torch.no_grad():
                self.network.build("a")(given.detach().clone())
                output = self.network.build("a")(plain.clone())
        except Exception:  # plain torch does not run on data that are handed over like this
            if how == "plain":
                raise
            return self.data(samples, "plain", purpose)
        return x, self.network.target(output, samples, purpose), plain

    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "loss": self.network.score(), "progress": False, "model": self.a}

    def sweep(self, sampler: Any, **options: Any) -> fc.Sweep:
        if self.network.training:
            self.a.train()
            self.b.train()
        try:
            return fc.evaluate(*self._thetas(), sampler, data=(self.x, self.y), **self.settings(), **options)
        finally:
            if self.network.training:
                modes = {module.training for module in (*self.a.modules(), *self.b.modules())}
                if modes != {True}:
                    self.add("evaluate", "wrong", "the modules' training mode changed")
                self.a.eval()
                self.b.eval()

    def output(self, theta: State, x: Tensor, buffers: str | None = None) -> Any:
        """Plain torch's output, or None where it raises."""
        try:
            return self.oracle.output(theta, x, buffers)
        except Exception:
            return None

    def runs(self, samples: int) -> bool:
        return self.output(self.oracle.end("a"), self.network.inputs(samples), "a") is not None

    def loss(self, theta: State, buffers: str | None) -> float:
        output = self.oracle.output(theta, self.plain, buffers)
        return float(self.oracle.losses(output, self.y).double().mean())

    def _coupled(self) -> bool:
        """Whether a sample's result depends on the others, or on how many there are."""
        x = self.network.inputs(6, "coupled")
        theta = self.oracle.end("a")
        whole = self.output(theta, x)
        parts = [self.output(theta, part) for part in x.split([1, 2, 3])]
        if whole is None or any(part is None for part in parts):
            return True
        for j, want in enumerate(tensors(whole)):
            pieces = [tensors(part)[j] for part in parts]
            if any(piece.shape[1:] != want.shape[1:] for piece in pieces):
                return True
            joined = torch.cat(pieces)
            if joined.shape != want.shape or not torch.allclose(joined, want, 1e-3, 1e-4):
                return True
        return "std(0)" in self.network.loss or "len(o)" in self.network.loss

    def noise(self, theta: State, x: Tensor, buffers: str | None = None) -> float:
        """How far roundings may move the tensors of an output."""
        return self.oracle.rounding(theta, x, buffers, tensors)

    def same_losses(
        self,
        check: str,
        found: Any,
        thetas: list[State],
        x: Tensor,
        y: Tensor,
        backend: str,
        buffers: str | None = None,
    ) -> None:
        for i, (theta, value) in enumerate(zip(thetas, found, strict=True)):
            each = self.oracle.losses(self.oracle.output(theta, x, buffers), y)
            noise = self.oracle.rounding(theta, x, buffers, lambda output: [self.oracle.losses(output, y)])
            want, scale = each.double().mean(), float(each.abs().max())
            where = f"combination {i}: "
            self.compare(check, torch.tensor(float(value)), want, noise, backend, scale, where=where)

    def same_accuracy(self, check: str, found: Any) -> None:
        named = self.network.loss in ("cross_entropy", "nll") and self.network.targets in ("classes", "dense")
        if not named:
            if not np.isnan(found).all():
                self.add(check, "wrong", f"accuracy {found} where there is none")
            return
        for theta, value in zip(self.thetas, found, strict=True):
            logits = widened(self.oracle.output(theta, self.plain))
            noise = self.noise(theta, self.plain)
            want = (logits.argmax(1) == self.y).float().mean()
            if logits.shape[1] > 1:
                top = logits.topk(2, 1).values
                close = (top[:, 0] - top[:, 1]) <= _NOISE * noise + 1e-6 * logits.abs().max()
                allowed = close.float().mean() + 1e-6
            else:
                allowed = torch.tensor(1e-6)
            if not abs(float(value) - want) <= allowed:
                self.add(check, "wrong", f"accuracy {value} for {want}")
                return

    def compare(
        self,
        check: str,
        found: Tensor,
        want: Tensor,
        noise: float,
        backend: str = "",
        scale: float | None = None,
        relative: float = RELATIVE,
        where: str = "",
    ) -> None:
        """Record whether two tensors are equal up to what roundings do."""
        if found.shape != want.shape:
            self.add(check, "wrong", f"{where}shape {tuple(found.shape)} for {tuple(want.shape)}", backend)
            return
        if not want.numel():
            return
        if want.is_complex():
            found, want = torch.view_as_real(found), torch.view_as_real(want)
        found, want = found.detach().double(), want.detach().double()
        same = (found == want) | (found.isnan() & want.isnan())
        error = torch.where(same, 0.0, (found - want).abs()).nan_to_num(nan=float("inf"))
        limit = _NOISE * noise + relative * (float(want.abs().max()) if scale is None else scale)
        if float(error.max()) > limit:
            place = int(error.argmax())
            text = (
                f"{where}{found.flatten()[place].item():.7g} for {want.flatten()[place].item():.7g}, "
                f"limit {limit:.2g}, {int((error > limit).sum())} of {want.numel()} beyond"
            )
            self.add(check, "wrong", text, backend)
        else:
            self.add(check, "right", "", backend)

    def portraits(self) -> dict[str, Any]:
        return {
            "model a": portrait(self.a),
            "model b": portrait(self.b),
            "x": self.given[0],
            "y": self.given[1],
        }

    def unchanged(self, check: str, before: dict[str, Any]) -> None:
        after = {
            "model a": portrait(self.a),
            "model b": portrait(self.b),
            "x": portrait(self.x),
            "y": portrait(self.y),
        }
        changed = list(differences(before, after))
        if changed:
            self.add(f"{check} leaves all as it was", "wrong", "; ".join(changed[:3]))
            self.renew()
            self.x, self.y, self.plain = self.data(self.network.samples, self.network.data_format, "data")
            self.given = (portrait(self.x), portrait(self.y))

    def call(self, check: str, function: Callable[[], Any]) -> Any:
        """What the function returns, or None where it refuses or raises."""
        before = self.portraits()
        try:
            return function()
        except Exception as error:
            clear = _is_clear(error)
            text = f"{type(error).__name__}: {str(error).strip()}"
            if not clear:
                last = traceback.extract_tb(error.__traceback__)[-1]
                text += f" (in {Path(last.filename).name}: {last.line})"
            self.add(check, "refused" if clear else "raised", text)
            return None
        finally:
            self.unchanged(check, before)

    def add(self, check: str, verdict: str, text: str, backend: str = "") -> None:
        finding = Finding(check, verdict, text, backend)
        if finding not in self.findings:
            self.findings.append(finding)


def _is_clear(error: Exception) -> bool:
    """Whether fastcomb itself raised it, as an exception that it documents."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    private = type(error).__module__.startswith("fastcomb.backends")
    meant = last.filename.startswith(_PACKAGE) and (last.line or "").startswith("raise ")
    return isinstance(error, _PUBLIC) and meant and not private and bool(str(error))


def values(x: Any) -> Tensor:
    """The values of data in a plain tensor of its own."""
    tensor = torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x.detach()
    return tensor.clone(memory_format=torch.contiguous_format)
