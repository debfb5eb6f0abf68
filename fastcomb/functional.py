"""Mixtures that run: the outputs of many combinations on the same inputs, as one call."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcomb import mixing
from fastcomb.backends import say_reference
from fastcomb.backends.base import Unsupported
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.native import Native
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.program import cold_copy
from fastcomb.program.choose import Output, check_output, choose
from fastcomb.program.fingerprint import fingerprint
from fastcomb.utils.inputs import CONSTANTS, Inputs, Samples, arguments, leaves, mapped, structure
from fastcomb.utils.state_dicts import unwrapped


class Mixture(mixing.Mixture):
    __doc__ = mixing.Mixture.__doc__

    def functional_call(
        self,
        model: nn.Module,
        indices: Iterable[int] | int,
        *args: Any,
        output: Output | None = None,
        batch_norm: str | None = None,
        calibration: Any = None,
        buffers: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Outputs of many combinations on the same inputs, as :func:`torch.func.functional_call`.

        A module in eval mode on CPU tensors that have the samples first runs on the compiled engine, which is
        kept for further calls.

        Args:
            model: the module; runs in its present mode (train or eval) and is left unchanged.
            indices: K combination indices, for example ``range(0, 64)``; a single int gives K = 1.
            *args, **kwargs: passed to the module, the same for all combinations.
            output: which tensor of the result is wanted: a name, an index, or a function of it; all that the
                module returns if None, but for caches of keys and values and the like, which become None.
            batch_norm, calibration, buffers: as in :func:`fastcomb.evaluate`.

        Returns:
            The module's output with a leading dimension K on every tensor: [K, N, ...].

        Raises:
            ValueError: the mixture does not fit the model, the model has running statistics and
                ``batch_norm`` is not given, or the networks' buffers differ and ``buffers`` is not given.
            IndexError: an index is outside [0, 2**64).

        Example:
            >>> mix = fc.Mixture(a, b, fc.Uniform())
            >>> logits = mix.functional_call(a, range(64), x)
            >>> logits.shape
            torch.Size([64, 100, 3])
            >>> one = torch.func.functional_call(a, mix[17], x)
            >>> torch.allclose(logits[17], one, atol=1e-5)
            True
        """
        model = unwrapped(model)
        single = isinstance(indices, int) or (isinstance(indices, Tensor) and indices.ndim == 0)
        index = self.index_tensor([indices] if single else indices)  # type: ignore[list-item,arg-type]
        normalisation = Normalisation.choose(model, self, batch_norm, calibration, buffers)
        check_output(output)
        reason = ""
        x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else Inputs(args, kwargs)
        if self._on_engine(model, x):
            try:
                return self._engine(model, x, normalisation, output).call(index, x)
            except Unsupported as error:
                reason = str(error)
        copied = choose(cold_copy(model, *args, **kwargs), x, output, default="result")
        reference = TorchReference(self, copied, dtype=self.dtype, normalisation=normalisation)
        outputs = reference.call(index, args, kwargs)
        say_reference(model, reason)
        return outputs

    def _on_engine(self, model: nn.Module, x: Samples) -> bool:
        """Whether the compiled engine takes this call."""
        tensors = leaves(x)
        kinds = {self.dtype, torch.int64} | (set() if isinstance(x, Tensor) else {torch.int32, torch.bool})
        known = all(isinstance(leaf, (Tensor, *CONSTANTS)) for leaf in tree_leaves(arguments(x)))
        return (
            known
            and bool(tensors)
            and all(t.ndim > 0 and len(t) > 0 for t in tensors)
            and len({len(t) for t in tensors}) == 1
            and all(t.dtype in kinds for t in tensors)
            and self.dtype in Native.dtypes
            and all(t.device.type == self.device.type == "cpu" for t in tensors)
            and not any(module.training for module in model.modules())
        )

    def _engine(
        self, model: nn.Module, x: Samples, normalisation: Normalisation, output: Output | None
    ) -> Native:
        """An engine for calls on inputs like x: the last one where it serves."""
        mark = fingerprint(model, values=True)
        built = tuple((t.shape[1:], t.dtype) for t in leaves(x)), structure(x[:0])
        key = (mark, *built, output, normalisation.choice, normalisation.buffers)
        cached = _ENGINES.get(self)
        if mark is None or cached is None or cached[0] != key or normalisation.batches:
            args, kwargs = arguments(x)
            copied = choose(cold_copy(model, *args, **kwargs), x, output, default="result")
            some = x if len(x) > 2 else mapped(_more, x)
            engine = Native(copy.copy(self), copied, some, dtype=self.dtype, normalisation=normalisation)
            engine.check(copied, some)
            cached = _ENGINES[self] = key, engine
        return cached[1]


def _more(t: Tensor) -> Tensor:
    """One or two samples, and others made of them."""
    return torch.cat([t, *(t.roll(n, -1) if t.ndim > 1 else t for n in (1, 2))])


#: The last engine of each mixture, and what it is for. It holds a copy of the mixture, so both can go.
_ENGINES: weakref.WeakKeyDictionary[Mixture, tuple[tuple[Any, ...], Native]] = weakref.WeakKeyDictionary()
