"""The law: combinations through ``torch.func.functional_call`` under ``torch.func.vmap``.

Runs whatever module runs under ``functional_call``, on any device. Other backends are compared with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastcomb import compiled
from fastcomb.backends.base import Score, Scores
from fastcomb.backends.virtual import VirtualParameter
from fastcomb.decision import Answer, Question
from fastcomb.mixture import Mixture
from fastcomb.normalisation import Normalisation, collecting
from fastcomb.notice import notify

#: Most combinations in a block.
_MAX_BLOCK = 64
#: Bytes of the weights of one block, and of all values that combinations batched by vmap produce. On
#: CPUs a batch pays only while it stays near the caches; on accelerators it has to fill the device.
_BATCH_BYTES = {"cpu": 32 << 20}
_BATCH_BYTES_ELSEWHERE = 1 << 30
#: Bytes of the values that one combination may produce on the samples handed over at a time.
_SAMPLE_BYTES = 128 << 20

State = dict[str, Tensor]


class Prepared(NamedTuple):
    """A block of K combinations before any sample.

    Attributes:
        indices: int64 [K].
        mixed: all parameters, [K, ...] each, where they are known; None where the pass generates them.
        statistics: recomputed running statistics, [K, C] each.
    """

    indices: Tensor
    mixed: State | None
    statistics: State


class TorchReference:
    """Reference backend: batched ``functional_call`` with virtual parameters.

    Combinations whose activations fit the caches together run as one batch under vmap; larger ones one
    after another, layer by layer in the compiled kernels where those are there. Without them, and for
    modules that vmap cannot batch, weights are generated for a whole block first.

    Args:
        mixture: the networks.
        model: the module; its weights are not used, its mode is, and neither is changed.
        dtype: compute dtype of parameters, inputs and buffers.
        normalisation: what to do with running statistics.

    Raises:
        ValueError: the mixture's parameters are not the model's.
    """

    name = "torch_reference"

    def __init__(
        self, mixture: Mixture, model: nn.Module, *, dtype: torch.dtype, normalisation: Normalisation
    ) -> None:
        check_fit(mixture, model)
        self.mixture = mixture
        self.model = model
        self.dtype = dtype
        self.normalisation = normalisation
        self.slots = self.block = 1
        self._writes_inputs = False
        self._inside = True  # until generating inside the pass fails
        buffers = {n: mixture.a.carried.get(n, b) for n, b in model.named_buffers()}
        self._shared = {n: self._ready(b) for n, b in (buffers | (normalisation.fixed or {})).items()}

    def plan(self, x: Tensor, samples: int) -> tuple[Any, int]:
        """Choose slots and block for a data set, from sizes only (never from free memory or threads).

        Args:
            x: the first few of its samples.
            samples: how many there are.

        Returns:
            the model's output on ``x`` for one combination, and the samples to hand over at a time.
        """
        x = self._ready(x)
        index = self.mixture.index_tensor([0])
        output, produced = self._measured(index, (x,), {})
        per_sample = produced / len(x)
        chunk = min(samples, _power_of_two(_SAMPLE_BYTES / per_sample))
        self._size(per_sample * max([chunk, *map(len, self.normalisation.batches)]))
        two = self.mixture.index_tensor([0, 1])
        list(self._outputs(self.prepare(two), (x,), {}))  # any notice belongs before the work
        return tree_map(lambda t: t[0], output), chunk

    @torch.no_grad()
    def prepare(self, index: Tensor) -> Prepared:
        return self._collected(Prepared(index, None if self._virtual else self._mixed(index), {}))

    @torch.no_grad()
    def given(self, mixed: State) -> Prepared:
        """Networks that are no combinations: their parameters [K, ...] by name, in the compute dtype."""
        count = len(next(iter(mixed.values())))
        return self._collected(Prepared(self.mixture.index_tensor(range(count)), mixed, {}))

    def _collected(self, prepared: Prepared) -> Prepared:
        """With statistics recomputed, where they are to be."""
        count = len(prepared.indices)
        totals: State = {}
        batches = self.normalisation.batches
        for batch in batches:
            with collecting(self.model) as names:
                fresh = {n: self._shared[n].new_zeros(count, *self._shared[n].shape) for n in names}
                for _ in self._outputs(
                    prepared._replace(statistics=fresh), (_copied(self._ready(batch)),), {}
                ):
                    pass
            for name, value in fresh.items():
                totals[name] = totals.get(name, 0) + value / len(batches)
        return prepared._replace(statistics=totals)

    def sums(self, prepared: Prepared, x: Tensor, y: Tensor, scores: Scores) -> Tensor:
        y = y.to(self.mixture.device)
        return torch.cat([scores.of(outputs, y) for outputs in self._wide(prepared, x)], dim=1)

    def each(self, prepared: Prepared, x: Tensor, y: Tensor, measure: Score) -> Tensor:
        y = y.to(self.mixture.device)
        return torch.cat([measure(outputs, y) for outputs in self._wide(prepared, x)])

    def decide(
        self, prepared: Prepared, x: Tensor, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        return None

    def _wide(self, prepared: Prepared, x: Tensor) -> Iterator[Any]:
        """Outputs [k, S, ...] of successive parts of a block, half precision widened to float32."""
        for outputs in self._outputs(prepared, (self._ready(x),), {}):
            yield tree_map(lambda t: t.float() if t.dtype.itemsize < 4 else t, outputs)

    def statistics(self, index: int) -> State:
        recomputed = self.prepare(self.mixture.index_tensor([index])).statistics
        return (self.normalisation.fixed or {}) | {n: s[0] for n, s in recomputed.items()}

    def call(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Outputs of combinations ``index`` [K]: the module's own, each tensor with a leading K."""
        first, produced = self._measured(index[:1] if len(index) else index.new_zeros(1), args, kwargs)
        if not len(index):
            return tree_map(lambda t: t[:0], first)
        self._size(produced)
        parts = [first]
        for block in index[1:].split(self.block):
            if len(block):
                parts += self._outputs(self.prepare(block), args, kwargs)
        return tree_map(lambda *tensors: torch.cat(tensors), *parts)

    def output(self, index: Tensor, statistics: State, x: Tensor) -> Any:
        """Output on samples x [S, ...] of the one combination in ``index`` with given running statistics."""
        own = {name: self._ready(value)[None] for name, value in statistics.items()}
        (output,) = self._outputs(Prepared(index, self._mixed(index), own), (_copied(self._ready(x)),), {})
        return tree_map(lambda t: t[0], output)

    def _size(self, produced: float) -> None:
        """Choose how many combinations to run together that each produce so many bytes."""
        weights = sum(self.mixture.shape(n).numel() for n in self.mixture.names) * self.dtype.itemsize
        budget = _BATCH_BYTES.get(self.mixture.device.type, _BATCH_BYTES_ELSEWHERE)
        self.slots = min(_MAX_BLOCK, _power_of_two(budget / (produced + weights)))
        self.block = min(_MAX_BLOCK, _power_of_two(budget / weights))

    def _measured(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
        """Outputs [1, ...] of one combination, and the bytes of all values produced on the way."""
        prepared = self.prepare(index)
        args, kwargs = tree_map(_copied, (args, kwargs))
        before = [t._version for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        with _ByteCounter() as counter:
            (output,) = self._outputs(prepared, args, kwargs)
        after = [t._version for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._writes_inputs = before != after  # then every combination gets a copy of its own
        return output, counter.total

    @property
    def _virtual(self) -> bool:
        """Whether parameters are generated inside the pass."""
        return self._inside and (self.slots > 1 or compiled.serves(self.mixture.device))

    def _mixed(self, index: Tensor) -> State:
        return {n: self.mixture.parameter(n, index, self.dtype) for n in self.mixture.names}

    def _outputs(self, block: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Outputs [k, ...] of successive parts of a block; its statistics are updated by collecting."""
        done = 0
        given = (args, kwargs)
        while done < len(block.indices):
            part = slice(done, done + self.slots)
            own = {n: t[part] for n, t in block.statistics.items()}
            known = {n: t[part] for n, t in (block.mixed or {}).items()}
            virtual = self._virtual and (self.slots > 1 or not known)
            if virtual:
                args, kwargs = tree_map(_copied, given) if self._writes_inputs else given
                try:
                    yield self._generating(block.indices[part], known, own, args, kwargs)
                    done += self.slots
                    continue
                except Exception as error:
                    failure = error
            mixed = block.mixed or self._mixed(block.indices)
            while done < len(block.indices):
                own = {n: t[done] for n, t in block.statistics.items()}
                args, kwargs = tree_map(_copied, given) if self._writes_inputs else given
                yield self._single({n: t[done] for n, t in mixed.items()} | own, args, kwargs)
                done += 1
            if virtual:  # the module itself runs, so generating inside the pass is at fault
                batched, self.slots, self._inside = self.slots > 1, 1, False
                if not batched:
                    return
                reason = (str(failure) or type(failure).__name__).splitlines()[0]
                notify(
                    f"{type(self.model).__name__} runs combination by combination, since vmap cannot "
                    f"batch it: {reason}"
                )

    @torch.no_grad()
    def _generating(
        self, index: Tensor, known: State, own: State, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Outputs of up to ``slots`` combinations whose weights are known or generated on the way."""

        def virtual(index: Tensor, known: State) -> State:
            names = self.mixture.names
            return {n: VirtualParameter(self.mixture, n, index, self.dtype, known.get(n)) for n in names}

        if self.slots == 1:
            one = {n: t[0] for n, t in own.items()}
            return self._single(virtual(index[0], {}) | one, args, kwargs)
        shared = self._fresh()

        def each(index: Tensor, known: State, own: State) -> Any:
            return functional_call(self.model, virtual(index, known) | shared | own, args, kwargs)

        with warnings.catch_warnings():  # vmap's own loop over an operation is slow but right
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return vmap(each)(index, known, own)

    @torch.no_grad()
    def _single(self, state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = functional_call(self.model, self._fresh() | state, args, kwargs)
        return tree_map(lambda t: t[None], output)

    def _fresh(self) -> State:
        """The shared buffers, copied: a module may write to them."""
        return {n: b.clone() for n, b in self._shared.items()}

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.mixture.device, self.dtype if tensor.is_floating_point() else None)


class _ByteCounter(TorchDispatchMode):
    """Adds up the bytes of every new tensor that operations produce, generated weights aside."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.fastcomb.mix.default:
            self.total += sum(t.nbytes for t in tree_leaves(result) if isinstance(t, Tensor))
        return result


def check_fit(mixture: Mixture, model: nn.Module) -> None:
    """Raise ValueError unless the mixture's parameters are the model's."""
    names: dict[int, set[str]] = {}
    shapes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            names.setdefault(id(parameter), set()).add(name)
            shapes[name] = parameter.shape
    faults = [f"{min(tied)!r} is missing" for tied in names.values() if not tied & set(mixture.names)]
    for name in mixture.names:
        if name not in shapes:
            faults.append(f"the model has no {name!r}")
        elif mixture.shape(name) != shapes[name]:
            faults.append(f"{name!r} is {tuple(mixture.shape(name))}, in the model {tuple(shapes[name])}")
    if faults:
        raise ValueError(f"the mixture does not fit {type(model).__name__}: {'; '.join(faults[:5])}")


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _power_of_two(value: float) -> int:
    """The largest power of two up to ``value``, at least 1."""
    return 1 << max(0, int(value).bit_length() - 1)
