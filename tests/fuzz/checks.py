"""What must hold of one network, call by call; every call also leaves the user's modules and data alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from fastcomb.program import private_copy
from fastcomb.utils import notice
from tests.fuzz.networks import Network, hash_of
from tests.fuzz.oracle import tensors
from tests.fuzz.trial import RELATIVE, Finding, Trial

#: Relative difference that permuted sums make in float64.
_ALIGNED = 1e-8
#: How many times bfloat16's own error a result in it may be off.
_NARROW = 4.0


class Checks(Trial):
    """All checks of one network; :meth:`run` chooses some."""

    def run(self, extras: int = 3) -> list[Finding]:
        """What all networks go through, and so many of the further checks."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            notice.forget()
            before = torch.get_rng_state()
            self._all(extras)
            if not torch.equal(before, torch.get_rng_state()):
                self.notes.append("the global random state changed")
        self.notes += [f"notice: {w.message}" for w in caught if issubclass(w.category, notice.BackendNotice)]
        return self.findings

    def _all(self, count: int) -> None:
        mixture = self.call("mixture", lambda: fc.Mixture(self.a, self.b, self.sampler, self.seed))
        if mixture is None:
            return
        self.thetas = [self.oracle.theta(mixture.coefficients(i)) for i in range(self.count)]
        self._states(mixture)
        if self.oracle.differing:
            self._unchosen()
        self._evaluate("auto")
        self._evaluate("torch_reference")
        self._ends()
        self._functional(mixture)
        if re.search(r"self\.t\d+ =", self.network.source):
            self._edited(mixture)
        extras = [self._pieces, self._streamed, self._blocks, self._narrow, self._barrier, self._program]
        extras += [self._align, self._align, self._raising, self._rebuilt]
        if count and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.a.modules()):
            self._recompute()
        for extra in self.rng.sample(extras, count):
            extra()

    def _states(self, mixture: fc.Mixture) -> None:
        """``mixture[i]`` is θ."""
        state = self.call("mixture[i]", lambda: mixture[1])
        for name, value in self.thetas[1].items():
            if state is not None and name in mixture.names:
                self.compare("mixture[i]", state[name], value, 0.0, relative=2e-7)

    def _unchosen(self) -> None:
        """Buffers that differ are named, unless somebody chose."""
        options = {k: v for k, v in self.options.items() if k != "buffers"}
        sweep = self.call("evaluate without buffers=", lambda: self.sweep(self.sampler, n=2, **options))
        if sweep is not None:
            losses = [self.loss(self.oracle.end("b"), which) for which in "ab"]
            if abs(losses[0] - losses[1]) > 1e-4 * (1 + abs(losses[0])):
                self.add("evaluate without buffers=", "wrong", f"{self.oracle.differing} differ, no error")

    def _evaluate(self, backend: str) -> None:
        check = f"evaluate on {backend}"
        sweep = self.call(
            check, lambda: self.sweep(self.sampler, n=self.count, backend=backend, **self.options)
        )
        if sweep is None:
            return
        self.same_losses(check, sweep.loss, self.thetas, self.plain, self.y, sweep.backend)
        self.same_accuracy(check, sweep.accuracy)

    def _ends(self) -> None:
        """The law: coefficients 0 and 1 are the networks themselves."""
        backend = self.rng.choice(["auto", "auto", "torch_reference"])
        options = dict.fromkeys(self.options, "lerp")
        for t, which in enumerate("ab"):
            check = f"Constant({t}) on {backend}"
            sweep = self.call(
                check, lambda t=t: self.sweep(fc.Constant(float(t)), n=1, backend=backend, **options)
            )
            if sweep is not None:
                self.same_losses(
                    check, sweep.loss, [self.oracle.end(which)], self.plain, self.y, sweep.backend, which
                )

    def _functional(self, mixture: fc.Mixture) -> None:
        sizes = self.rng.sample([1, 2, 3, 7, 40], 3)
        how = self.network.data_format
        for size in filter(self.runs, sizes):
            # a tensor, unlike evaluate's data; plain where plain torch does not run on it
            x, _, plain = self.data(size, "plain" if how in ("numpy", "reversed") else how, f"call {size}")
            if x.is_floating_point() and x.dtype != self.network.dtype:
                x = x.to(self.network.dtype)
            expected = [self.output(theta, plain) for theta in self.thetas]
            if any(output is None for output in expected):
                continue
            check = f"functional_call on {size} samples" if size < 3 else "functional_call"
            found = self.call(
                check,
                lambda x=x: mixture.functional_call(self.a, range(self.count), x, **self.options),
            )
            if found is None:
                continue
            got = tensors(found)
            if type(found) is not type(expected[0]) or len(got) != len(tensors(expected[0])):
                self.add(check, "wrong", f"returned a {type(found).__name__} of {len(got)} tensors")
                continue
            for i, (theta, output) in enumerate(zip(self.thetas, expected, strict=True)):
                noise = self.noise(theta, plain)
                for j, want in enumerate(tensors(output)):
                    if got[j].shape[:1] != (self.count,):
                        self.add(
                            check,
                            "wrong",
                            f"shape {tuple(got[j].shape)} for {self.count} × {tuple(want.shape)}",
                        )
                        break
                    self.compare(check, got[j][i], want, noise)

    def _pieces(self) -> None:
        """A combination's results do not depend on n or start."""
        whole = self.call("evaluate in pieces", lambda: self.sweep(self.sampler, n=5, **self.options))
        part = self.call("evaluate in pieces", lambda: self.sweep(self.sampler, n=2, start=3, **self.options))
        if (
            whole is not None
            and part is not None
            and not np.array_equal(whole.loss[3:], part.loss, equal_nan=True)
        ):
            self.add("evaluate in pieces", "wrong", f"{whole.loss[3:]} as a part, {part.loss} alone")

    def _streamed(self) -> None:
        """Data beyond the budget come from the loader on every pass."""
        if self.coupled:
            return
        samples = 57
        x, y, plain = self.data(samples, "plain", "streamed")
        loader = DataLoader(TensorDataset(x, y), batch_size=self.rng.choice([1, 8, 20]))
        sweep = self.call(
            "evaluate streamed",
            lambda: fc.evaluate(
                self.a,
                self.b,
                self.sampler,
                data=loader,
                n=2,
                data_budget=1,
                **self.settings(),
                **self.options,
            ),
        )
        if sweep is not None:
            self.same_losses("evaluate streamed", sweep.loss, self.thetas[:2], plain, y, sweep.backend)

    def _blocks(self) -> None:
        """So many samples that a backend takes several blocks of them."""
        x, y, plain = self.data(self.rng.choice([600, 1500]), "plain", "blocks")
        backend = self.rng.choice(["auto", "torch_reference"])
        check = f"evaluate in blocks on {backend}"
        sweep = self.call(
            check,
            lambda: fc.evaluate(
                self.a,
                self.b,
                self.sampler,
                data=(x, y),
                n=2,
                backend=backend,
                **self.settings(),
                **self.options,
            ),
        )
        if sweep is not None:
            self.same_losses(check, sweep.loss, self.thetas[:2], plain, y, sweep.backend)

    def _narrow(self) -> None:
        """bfloat16, as far from plain bfloat16 as that is from float32."""
        dtype = torch.bfloat16
        tensors_of = (*self.a.parameters(), *self.a.buffers())
        if self.network.dtype != torch.float32 or any(tensor.is_complex() for tensor in tensors_of):
            return  # Module.to(bfloat16) drops imaginary parts
        try:
            narrow = [
                self.oracle.losses(self.oracle.output(theta, self.plain, dtype=dtype), self.y)
                for theta in self.thetas
            ]
        except Exception:
            return
        wide = [self.oracle.losses(self.oracle.output(theta, self.plain), self.y) for theta in self.thetas]
        sweep = self.call(
            "evaluate in bfloat16",
            lambda: self.sweep(self.sampler, n=self.count, dtype=dtype, **self.options),
        )
        if sweep is None:
            return
        limit = _NARROW * max(float((n - w).abs().max()) for n, w in zip(narrow, wide, strict=True)) + 2e-2
        for i, (n, found) in enumerate(zip(narrow, sweep.loss, strict=True)):
            want = float(n.double().mean())
            if not abs(want - float(found)) <= limit and np.isfinite(want):
                text = f"combination {i}: {found} for {want}, within {limit:.2g}"
                self.add("evaluate in bfloat16", "wrong", text, sweep.backend)
                return
        self.add("evaluate in bfloat16", "right", "", sweep.backend)

    def _barrier(self) -> None:
        options = dict.fromkeys(self.options, "lerp")
        found = self.call(
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
            for losses in (found.loss, found.ends_loss):
                self.same_losses("barrier", losses[[place]], own, self.plain, self.y, "", which)

    def _program(self) -> None:
        """A Program runs on as many samples as it says it does."""
        if not self.runs(2):
            return
        example = self.network.inputs(2, "program")
        program = self.call("capture", lambda: fc.capture(self.a, example.clone()))
        if program is None:
            return
        for size in () if program.bound else (2, 7):
            x = self.network.inputs(size, f"program {size}")
            expected = self.output(self.oracle.end("a"), x, "a")
            if expected is None:
                continue
            state = dict(self.a.named_parameters()) | dict(self.a.named_buffers())
            with torch.no_grad():
                found = self.call("Program.run", lambda x=x, state=state: program.run(state, x.clone()))
            noise = self.noise(self.oracle.end("a"), x, "a")
            for got, want in zip(tensors(found), tensors(expected), strict=False):
                self.compare(f"Program.run on {size} samples", got, want, noise)

    def _align(self) -> None:
        if not self.runs(2):
            return
        example = self.network.inputs(3, "align")
        method = self.rng.choice(["weights", "random"])
        result = self.call(
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
                moved = private_copy(model).to(wide)(x.to(wide) if x.is_floating_point() else x)
            noise, relative = 0.0, RELATIVE if self.network.warm else _ALIGNED  # what it kept is float32
        except Exception:
            own = self.output(theta, x, "b")
            if own is None:
                return
            try:
                with torch.no_grad():
                    moved = private_copy(model)(x.clone())
            except Exception as error:
                self.add("align", "wrong", f"the aligned network does not run on {tuple(x.shape)}: {error}")
                return
            noise, relative = self.noise(theta, x, "b"), RELATIVE
        for got, want in zip(tensors(moved), tensors(own), strict=True):
            self.compare(f"align ({len(x)} samples)", got, want, noise, relative=relative)

    def _recompute(self) -> None:
        """As ``update_bn``, over two batches of calibration data."""
        tracked = [m for m in self.a.modules() if isinstance(m, nn.modules.instancenorm._InstanceNorm)]
        if tracked or self.network.dtype == torch.bfloat16:  # which update_bn does not know, and too coarse
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
        sweep = self.call(check, lambda: self.sweep(self.sampler, n=2, backend=backend, **options))
        if sweep is None:
            return
        for found, want, theta in zip(sweep.loss, expected, self.thetas, strict=False):
            other = self.oracle.recomputed(self.oracle.disturbed(theta, 0), batches)
            with torch.no_grad():
                moved = self.oracle.losses(other(self.plain.clone()), self.y)
            noise = 3 * (moved - want).abs().max()
            self.compare(
                check, torch.tensor(float(found)), want.double().mean().float(), noise, sweep.backend
            )

    def _rebuilt(self) -> None:
        """A combination as a module of its own."""
        sweep = self.call("rebuild", lambda: self.sweep(self.sampler, n=2, **self.options))
        module = None if sweep is None else self.call("rebuild", lambda: sweep.rebuild(1))
        if module is None:
            return
        with torch.no_grad():
            found = self.call("rebuild", lambda: module.eval()(self.plain.clone()))
        noise = self.noise(self.thetas[1], self.plain)
        for got, want in zip(
            tensors(found), tensors(self.oracle.output(self.thetas[1], self.plain)), strict=True
        ):
            self.compare("rebuild", got, want, noise)

    def _edited(self, mixture: fc.Mixture) -> None:
        """An attribute of the user's module changes between two calls."""

        def edit(module: nn.Module) -> None:
            for name, value in vars(module).items():
                if re.fullmatch(r"t\d+", name):
                    setattr(module, name, value * 3)

        x = self.network.inputs(3, "edited")
        edit(self.a)
        self.oracle.edit = edit
        found = self.call(
            "functional_call after an edit",
            lambda: mixture.functional_call(self.a, range(2), x.clone(), **self.options),
        )
        for i, theta in enumerate(self.thetas[:2] if found is not None else ()):
            want = self.output(theta, x)
            if want is not None:
                noise = self.noise(theta, x)
                for got, own in zip(tensors(found), tensors(want), strict=True):
                    self.compare("functional_call after an edit", got[i], own, noise)
        self.oracle.edit = lambda module: None
        self.renew()

    def _raising(self) -> None:
        """A call that fails halfway leaves no trace either."""

        def failing(output: Any, y: Tensor) -> Tensor:
            raise KeyError("the user's own fault")

        before = self.portraits()
        for data in ((self.x, self.y), (self.x, self.y[:-1])):
            try:
                fc.evaluate(
                    self.a, self.b, self.sampler, data=data, n=2, loss=failing, progress=False, **self.options
                )
            except Exception:
                self.unchanged("evaluate that raises", before)
                continue
            self.add("evaluate that raises", "wrong", "did not raise")


def findings(network: Network, extras: int = 3) -> Iterator[dict[str, str]]:
    """Findings and notes of a network, as JSON takes them; ``extras`` as :meth:`Checks.run` has them."""
    torch.manual_seed(hash_of(network.seed, network.number))
    trial = Checks(network)
    yield from (finding.record() for finding in trial.run(extras))
    yield from ({"check": "note", "verdict": "note", "text": note, "backend": ""} for note in trial.notes)
