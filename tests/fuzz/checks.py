"""What must hold of one network, call by call; every call also leaves the user's modules and data alone."""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from tests.fuzz.networks import Network, formatted, hash_of
from tests.fuzz.oracle import Oracle, State, tensors, widened
from tests.fuzz.untouched import differences, portrait

_PACKAGE = str(Path(fc.__file__).parent)
_PUBLIC = (ValueError, TypeError, RuntimeError)
#: How often larger than the effect of disturbed weights an error may be, and its least relative size.
_NOISE, _RELATIVE = 20.0, 4e-6
_ALIGNED = 1e-8
#: Of a narrower precision's own error.
_NARROW = 4.0


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
    """All checks of one network."""

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
        self._fresh()
        self.count = self.rng.choice([3, 4, 5])
        self.x, self.y, self.plain = self._data(network.samples, network.data_format, "data")
        self.given = (portrait(self.x), portrait(self.y))
        self.norms = [
            name
            for name, module in self.a.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
        ]
        self.new_buffers = "buffers" in inspect.signature(fc.evaluate).parameters
        self.options: dict[str, Any] = {}
        if self.norms:
            self.options["batch_norm"] = self.choice
        if self.oracle.differing and self.new_buffers:
            self.options["buffers"] = self.choice
        self.coupled = self._coupled()
        self.thetas: list[State] = []

    def run(self) -> list[Finding]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fc.notice.forget()
            before = torch.get_rng_state()
            self._all()
            if not torch.equal(before, torch.get_rng_state()):
                self.notes.append("the global random state changed")
        self.notes += [
            f"notice: {w.message}" for w in caught if issubclass(w.category, fc.notice.BackendNotice)
        ]
        return self.findings

    def _all(self) -> None:
        mixture = self._call(
            "mixture", lambda: fc.Mixture(self.a, self.b, self.sampler, self.seed, **self._mixing())
        )
        if mixture is None:
            return
        self.thetas = [self.oracle.theta(mixture.coefficients(i)) for i in range(self.count)]
        self._states(mixture)
        if self.oracle.differing and self.new_buffers:
            self._unchosen()
        self._evaluate("auto")
        self._evaluate("torch_reference")
        self._ends()
        self._functional(mixture)
        extras = [self._pieces, self._streamed, self._blocks, self._narrow, self._barrier, self._program]
        extras += [self._align, self._align, self._raising, self._rebuilt]
        if re.search(r"self\.t\d+ =", self.network.source):
            self._edited(mixture)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.a.modules()):
            self._recompute()
        for extra in self.rng.sample(extras, 3):
            extra()

    # ---- the checks

    def _states(self, mixture: fc.Mixture) -> None:
        """``mixture[i]`` is θ."""
        state = self._call("mixture[i]", lambda: mixture[1])
        for name, value in self.thetas[1].items():
            if state is not None and name in mixture.names:
                self._compare("mixture[i]", state[name], value, 0.0, relative=2e-7)

    def _unchosen(self) -> None:
        """Buffers that differ are named, unless somebody chose."""
        options = {k: v for k, v in self.options.items() if k != "buffers"}
        sweep = self._call("evaluate without buffers=", lambda: self._sweep(self.sampler, n=2, **options))
        if sweep is not None:
            losses = [self._loss(self.oracle.end("b"), which) for which in "ab"]
            if abs(losses[0] - losses[1]) > 1e-4 * (1 + abs(losses[0])):
                self._add("evaluate without buffers=", "wrong", f"{self.oracle.differing} differ, no error")

    def _evaluate(self, backend: str) -> None:
        check = f"evaluate on {backend}"
        sweep = self._call(
            check, lambda: self._sweep(self.sampler, n=self.count, backend=backend, **self.options)
        )
        if sweep is None:
            return
        self._same_losses(check, sweep.loss, self.thetas, self.plain, self.y, sweep.backend)
        self._same_accuracy(check, sweep.accuracy)

    def _ends(self) -> None:
        """The law: coefficients 0 and 1 are the networks themselves."""
        backend = self.rng.choice(["auto", "auto", "torch_reference"])
        options = dict.fromkeys(self.options, "lerp")
        for t, which in enumerate("ab"):
            check = f"Constant({t}) on {backend}"
            sweep = self._call(
                check, lambda t=t: self._sweep(fc.Constant(float(t)), n=1, backend=backend, **options)
            )
            if sweep is not None:
                self._same_losses(
                    check, sweep.loss, [self.oracle.end(which)], self.plain, self.y, sweep.backend, which
                )

    def _functional(self, mixture: fc.Mixture) -> None:
        sizes = self.rng.sample([1, 2, 3, 7, 40], 3)
        how = self.network.data_format
        for size in sizes:
            x = formatted(
                self.network.inputs(size, f"call {size}"), "plain" if how in ("numpy", "reversed") else how
            )
            if x.is_floating_point() and x.dtype != self.network.dtype:
                x = x.to(self.network.dtype)
            values = _values(x)
            expected = [self._plain(theta, values) for theta in self.thetas]
            if any(output is None for output in expected):
                continue
            check = f"functional_call on {size} samples" if size < 3 else "functional_call"
            found = self._call(
                check,
                lambda x=x: mixture.functional_call(self.a, range(self.count), x, **self._calling()),
            )
            if found is None:
                continue
            got = tensors(found)
            if type(found) is not type(expected[0]) or len(got) != len(tensors(expected[0])):
                self._add(check, "wrong", f"returned a {type(found).__name__} of {len(got)} tensors")
                continue
            for i, (theta, output) in enumerate(zip(self.thetas, expected, strict=True)):
                noise = self._noise(theta, values)
                for j, want in enumerate(tensors(output)):
                    if got[j].shape[:1] != (self.count,):
                        self._add(
                            check,
                            "wrong",
                            f"shape {tuple(got[j].shape)} for {self.count} × {tuple(want.shape)}",
                        )
                        break
                    self._compare(check, got[j][i], want, noise)

    def _pieces(self) -> None:
        """A combination's results do not depend on n or start."""
        whole = self._call("evaluate in pieces", lambda: self._sweep(self.sampler, n=5, **self.options))
        part = self._call(
            "evaluate in pieces", lambda: self._sweep(self.sampler, n=2, start=3, **self.options)
        )
        if (
            whole is not None
            and part is not None
            and not np.array_equal(whole.loss[3:], part.loss, equal_nan=True)
        ):
            self._add("evaluate in pieces", "wrong", f"{whole.loss[3:]} as a part, {part.loss} alone")

    def _streamed(self) -> None:
        """Data beyond the budget come from the loader on every pass."""
        if self.coupled:
            return
        samples = 57
        x, y, plain = self._data(samples, "plain", "streamed")
        loader = DataLoader(TensorDataset(x, y), batch_size=self.rng.choice([1, 8, 20]))
        sweep = self._call(
            "evaluate streamed",
            lambda: fc.evaluate(
                self.a,
                self.b,
                self.sampler,
                data=loader,
                n=2,
                data_budget=1,
                **self._settings(),
                **self.options,
            ),
        )
        if sweep is not None:
            self._same_losses("evaluate streamed", sweep.loss, self.thetas[:2], plain, y, sweep.backend)

    def _blocks(self) -> None:
        """So many samples that a backend takes several blocks of them."""
        x, y, plain = self._data(self.rng.choice([600, 1500]), "plain", "blocks")
        backend = self.rng.choice(["auto", "torch_reference"])
        check = f"evaluate in blocks on {backend}"
        sweep = self._call(
            check,
            lambda: fc.evaluate(
                self.a,
                self.b,
                self.sampler,
                data=(x, y),
                n=2,
                backend=backend,
                **self._settings(),
                **self.options,
            ),
        )
        if sweep is not None:
            self._same_losses(check, sweep.loss, self.thetas[:2], plain, y, sweep.backend)

    def _narrow(self) -> None:
        """bfloat16, as far from plain bfloat16 as that is from float32."""
        dtype = torch.bfloat16
        if self.network.dtype != torch.float32:
            return
        try:
            narrow = [
                self.oracle.losses(self.oracle.output(theta, self.plain, dtype=dtype), self.y)
                for theta in self.thetas
            ]
        except Exception:
            return
        wide = [self.oracle.losses(self.oracle.output(theta, self.plain), self.y) for theta in self.thetas]
        sweep = self._call(
            "evaluate in bfloat16",
            lambda: self._sweep(self.sampler, n=self.count, dtype=dtype, **self.options),
        )
        if sweep is None:
            return
        limit = _NARROW * max(float((n - w).abs().max()) for n, w in zip(narrow, wide, strict=True)) + 2e-2
        for i, (n, found) in enumerate(zip(narrow, sweep.loss, strict=True)):
            want = float(n.double().mean())
            if not abs(want - float(found)) <= limit and np.isfinite(want):
                text = f"combination {i}: {found} for {want}, within {limit:.2g}"
                self._add("evaluate in bfloat16", "wrong", text, sweep.backend)
                return
        self._add("evaluate in bfloat16", "right", "", sweep.backend)

    def _barrier(self) -> None:
        options = dict.fromkeys(self.options, "lerp")
        found = self._call(
            "barrier",
            lambda: fc.barrier(
                self.a,
                self.b,
                data=(self.x, self.y),
                points=3,
                loss=self.network.score(),
                progress=False,
                **options,
            ),
        )
        if found is None:
            return
        for place, which in ((0, "a"), (-1, "b")):
            own = [self.oracle.end(which)]
            for values in (found.loss, found.ends_loss):
                self._same_losses("barrier", values[[place]], own, self.plain, self.y, "", which)

    def _program(self) -> None:
        """A Program runs on as many samples as it says it does."""
        if not self._runs(2):
            return
        example = self.network.inputs(2, "program")
        program = self._call("capture", lambda: fc.capture(self.a, example.clone()))
        if program is None:
            return
        for size in () if program.bound else (2, 7):
            x = self.network.inputs(size, f"program {size}")
            expected = self._plain(self.oracle.end("a"), x, "a")
            if expected is None:
                continue
            state = dict(self.a.named_parameters()) | dict(self.a.named_buffers())
            with torch.no_grad():
                found = self._call("Program.run", lambda x=x, state=state: program.run(state, x.clone()))
            noise = self._noise(self.oracle.end("a"), x, "a")
            for got, want in zip(tensors(found), tensors(expected), strict=False):
                self._compare(f"Program.run on {size} samples", got, want, noise)

    def _align(self) -> None:
        if not self._runs(2):
            return
        example = self.network.inputs(3, "align")
        method = self.rng.choice(["weights", "random"])
        result = self._call(
            "align", lambda: fc.rebasin.align(self.a, self.b, method, example=example, progress=False)
        )
        if result is None:
            return
        for size in (1, 2, 7):
            x = self.network.inputs(size, f"align {size}")
            variants = [x]
            if self.network.kind in ("sequences", "tokens"):
                variants += [torch.cat([x, x[:, :2]], 1), x[:, :-1]]
            for x in variants:
                self._same_function(result.model, x)

    def _same_function(self, model: nn.Module, x: Tensor) -> None:
        theta = self.oracle.end("b")
        wide = torch.float64
        if self.network.dtype == wide:
            theta = self.oracle.b  # nothing is mixed here
        try:
            with torch.no_grad():
                own = self.oracle.output(theta, x, "b", wide)
                moved = fc.program.private_copy(model).to(wide)(x.to(wide) if x.is_floating_point() else x)
            noise, relative = 0.0, _ALIGNED
        except Exception:
            own = self._plain(theta, x, "b")
            if own is None:
                return
            try:
                with torch.no_grad():
                    moved = fc.program.private_copy(model)(x.clone())
            except Exception as error:
                self._add("align", "wrong", f"the aligned network does not run on {tuple(x.shape)}: {error}")
                return
            noise, relative = self._noise(theta, x, "b"), _RELATIVE
        for got, want in zip(tensors(moved), tensors(own), strict=True):
            self._compare(f"align ({len(x)} samples)", got, want, noise, relative=relative)

    def _recompute(self) -> None:
        """As ``update_bn``, over two batches of calibration data."""
        if any(isinstance(module, nn.modules.instancenorm._InstanceNorm) for module in self.a.modules()):
            return
        batches = [self.network.inputs(size, f"calibration {size}") for size in (9, 9)]
        try:
            modules = [self.oracle.recomputed(theta, batches) for theta in self.thetas[:2]]
            with torch.no_grad():
                expected = [self.oracle.losses(module(self.plain.clone()), self.y) for module in modules]
        except Exception:
            return
        loader = DataLoader(TensorDataset(torch.cat(batches)), batch_size=9)
        options = self.options | {"batch_norm": "recompute", "calibration": loader}
        if not self.norms:
            return
        if self.choice == "lerp" and "buffers" in self.options:
            options["buffers"] = "a"
        backend = self.rng.choice(["auto", "torch_reference"])
        check = f"recompute on {backend}"
        sweep = self._call(check, lambda: self._sweep(self.sampler, n=2, backend=backend, **options))
        if sweep is None:
            return
        for found, want, theta in zip(sweep.loss, expected, self.thetas, strict=False):
            other = self.oracle.recomputed(self.oracle.disturbed(theta, 0), batches)
            with torch.no_grad():
                moved = self.oracle.losses(other(self.plain.clone()), self.y)
            noise = 3 * (moved - want).abs().max()
            self._compare(
                check, torch.tensor(float(found)), want.double().mean().float(), noise, sweep.backend
            )

    def _rebuilt(self) -> None:
        """A combination as a module of its own."""
        sweep = self._call("rebuild", lambda: self._sweep(self.sampler, n=2, **self.options))
        module = None if sweep is None else self._call("rebuild", lambda: sweep.rebuild(1))
        if module is None:
            return
        with torch.no_grad():
            found = self._call("rebuild", lambda: module.eval()(self.plain.clone()))
        noise = self._noise(self.thetas[1], self.plain)
        for got, want in zip(
            tensors(found), tensors(self.oracle.output(self.thetas[1], self.plain)), strict=True
        ):
            self._compare("rebuild", got, want, noise)

    def _edited(self, mixture: fc.Mixture) -> None:
        """An attribute of the user's module changes between two calls."""

        def edit(module: nn.Module) -> None:
            for name, value in vars(module).items():
                if re.fullmatch(r"t\d+", name):
                    setattr(module, name, value * 3)

        x = self.network.inputs(3, "edited")
        edit(self.a)
        self.oracle.edit = edit
        found = self._call(
            "functional_call after an edit",
            lambda: mixture.functional_call(self.a, range(2), x.clone(), **self._calling()),
        )
        for i, theta in enumerate(self.thetas[:2] if found is not None else ()):
            want = self._plain(theta, x)
            if want is not None:
                noise = self._noise(theta, x)
                for got, own in zip(tensors(found), tensors(want), strict=True):
                    self._compare("functional_call after an edit", got[i], own, noise)
        self.oracle.edit = lambda module: None
        self._fresh()

    def _raising(self) -> None:
        """A call that fails halfway leaves no trace either."""

        def failing(output: Any, y: Tensor) -> Tensor:
            raise KeyError("the user's own fault")

        before = self._portraits()
        for data in ((self.x, self.y), (self.x, self.y[:-1])):
            try:
                fc.evaluate(
                    self.a, self.b, self.sampler, data=data, n=2, loss=failing, progress=False, **self.options
                )
            except Exception:
                self._unchanged("evaluate that raises", before)
                continue
            self._add("evaluate that raises", "wrong", "did not raise")

    # ---- helpers

    def _thetas(self) -> tuple[Any, Any]:
        """The networks as they are handed over."""
        if self.network.by_state and self.network.same_buffers:
            return self.a.state_dict(), self.b.state_dict()
        return self.a, self.b

    def _fresh(self) -> None:
        self.a, self.b = self.network.build("a"), self.network.build("b")

    def _mixing(self) -> dict[str, Any]:
        taken = inspect.signature(fc.Mixture).parameters
        return {k: v for k, v in self.options.items() if k in taken} if hasattr(self, "options") else {}

    def _calling(self) -> dict[str, Any]:
        taken = inspect.signature(fc.Mixture.functional_call).parameters
        return {k: v for k, v in self.options.items() if k in taken}

    def _data(self, samples: int, how: str, purpose: str) -> tuple[Any, Tensor, Tensor]:
        """x as handed over, y, and the values of x [N, ...] in the dtype that the network computes in."""
        x = formatted(self.network.inputs(samples, purpose), how)
        plain = _values(x)
        plain = plain.to(self.network.dtype) if plain.is_floating_point() else plain
        with torch.no_grad():
            output = self.network.build("a")(plain.clone())
        return x, self.network.target(output, samples, purpose), plain

    def _settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "loss": self.network.score(), "progress": False, "model": self.a}

    def _sweep(self, sampler: Any, **options: Any) -> fc.Sweep:
        if self.network.training:
            self.a.train()
            self.b.train()
        try:
            return fc.evaluate(*self._thetas(), sampler, data=(self.x, self.y), **self._settings(), **options)
        finally:
            if self.network.training:
                modes = {module.training for module in (*self.a.modules(), *self.b.modules())}
                if modes != {True}:
                    self._add("evaluate", "wrong", "the modules' training mode changed")
                self.a.eval()
                self.b.eval()

    def _plain(self, theta: State, x: Tensor, buffers: str | None = None) -> Any:
        """Plain torch's output, or None where it raises."""
        try:
            return self.oracle.output(theta, x, buffers)
        except Exception:
            return None

    def _runs(self, samples: int) -> bool:
        return self._plain(self.oracle.end("a"), self.network.inputs(samples), "a") is not None

    def _loss(self, theta: State, buffers: str | None) -> float:
        output = self.oracle.output(theta, self.plain, buffers)
        return float(self.oracle.losses(output, self.y).double().mean())

    def _coupled(self) -> bool:
        """Whether a sample's result depends on the others, or on how many there are."""
        x = self.network.inputs(6, "coupled")
        theta = self.oracle.end("a")
        whole = self._plain(theta, x)
        parts = [self._plain(theta, part) for part in x.split([1, 2, 3])]
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

    def _noise(self, theta: State, x: Tensor, buffers: str | None = None) -> float:
        """How far roundings may move the tensors of an output."""
        return self.oracle.rounding(theta, x, buffers, tensors)

    def _same_losses(
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
            self._compare(check, torch.tensor(float(value)), want, noise, backend, scale, where=where)

    def _same_accuracy(self, check: str, found: Any) -> None:
        named = self.network.loss in ("cross_entropy", "nll") and self.network.targets in ("classes", "dense")
        if not named:
            if "accuracy" in inspect.signature(fc.evaluate).parameters and not np.isnan(found).all():
                self._add(check, "wrong", f"accuracy {found} where there is none")
            return
        for theta, value in zip(self.thetas, found, strict=True):
            logits = widened(self.oracle.output(theta, self.plain))
            noise = self._noise(theta, self.plain)
            want = (logits.argmax(1) == self.y).float().mean()
            if logits.shape[1] > 1:
                top = logits.topk(2, 1).values
                close = (top[:, 0] - top[:, 1]) <= _NOISE * noise + 1e-6 * logits.abs().max()
                allowed = close.float().mean() + 1e-6
            else:
                allowed = torch.tensor(1e-6)
            if not abs(float(value) - want) <= allowed:
                self._add(check, "wrong", f"accuracy {value} for {want}")
                return

    def _compare(
        self,
        check: str,
        found: Tensor,
        want: Tensor,
        noise: float,
        backend: str = "",
        scale: float | None = None,
        relative: float = _RELATIVE,
        where: str = "",
    ) -> None:
        """Record whether two tensors are equal up to what roundings do."""
        if found.shape != want.shape:
            self._add(check, "wrong", f"{where}shape {tuple(found.shape)} for {tuple(want.shape)}", backend)
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
            self._add(check, "wrong", text, backend)
        else:
            self._add(check, "right", "", backend)

    def _portraits(self) -> dict[str, Any]:
        return {
            "model a": portrait(self.a),
            "model b": portrait(self.b),
            "x": self.given[0],
            "y": self.given[1],
        }

    def _unchanged(self, check: str, before: dict[str, Any]) -> None:
        after = {
            "model a": portrait(self.a),
            "model b": portrait(self.b),
            "x": portrait(self.x),
            "y": portrait(self.y),
        }
        changed = list(differences(before, after))
        if changed:
            self._add(f"{check} leaves all as it was", "wrong", "; ".join(changed[:3]))
            self._fresh()
            self.x, self.y, self.plain = self._data(self.network.samples, self.network.data_format, "data")
            self.given = (portrait(self.x), portrait(self.y))

    def _call(self, check: str, function: Callable[[], Any]) -> Any:
        """What the function returns, or None where it refuses or raises."""
        before = self._portraits()
        try:
            return function()
        except Exception as error:
            clear = _is_clear(error)
            text = f"{type(error).__name__}: {str(error).strip()}"
            if not clear:
                last = traceback.extract_tb(error.__traceback__)[-1]
                text += f" (in {Path(last.filename).name}: {last.line})"
            self._add(check, "refused" if clear else "raised", text)
            return None
        finally:
            self._unchanged(check, before)

    def _add(self, check: str, verdict: str, text: str, backend: str = "") -> None:
        finding = Finding(check, verdict, text, backend)
        if finding not in self.findings:
            self.findings.append(finding)


def _is_clear(error: Exception) -> bool:
    """Whether fastcomb itself raised it, as an exception that it documents."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    private = type(error).__module__.startswith("fastcomb.backends")
    meant = last.filename.startswith(_PACKAGE) and (last.line or "").startswith("raise ")
    return isinstance(error, _PUBLIC) and meant and not private and bool(str(error))


def _values(x: Any) -> Tensor:
    """The values of data in a plain tensor of its own."""
    tensor = torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x.detach()
    return tensor.clone(memory_format=torch.contiguous_format)


def findings(network: Network) -> Iterator[dict[str, str]]:
    """Findings and notes of a network, as JSON takes them."""
    torch.manual_seed(hash_of(network.seed, network.number))
    trial = Trial(network)
    yield from (finding.record() for finding in trial.run())
    yield from ({"check": "note", "verdict": "note", "text": note, "backend": ""} for note in trial.notes)
