"""The law: combinations through ``torch.func.functional_call`` under ``torch.func.vmap``.

Runs whatever module runs under ``functional_call``, on any device. Other backends are compared with it.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastcomb.backends.base import Score, Scores, power_of_two
from fastcomb.backends.batch_norm import Calls, Normalisation, collecting
from fastcomb.backends.places import places, slots
from fastcomb.backends.pristine import Pristine
from fastcomb.backends.virtual import VirtualParameter
from fastcomb.kernels import native
from fastcomb.mixing import Mixture
from fastcomb.program import private_copy
from fastcomb.statistics.sequential_decision import Answer, Question
from fastcomb.utils import inputs
from fastcomb.utils.inputs import Samples, arguments
from fastcomb.utils.notice import notify
from fastcomb.utils.outputs import close, joined, mapped, rebuilt, tensors

#: Most combinations in a block.
_MAX_BLOCK = 64
#: Bytes of the weights of one block, and of all values that combinations batched by vmap produce. On
#: CPUs a batch pays only while it stays near the caches; on accelerators it has to fill the device.
_BATCH_BYTES = {"cpu": 32 << 20}
_BATCH_BYTES_ELSEWHERE = 1 << 30
#: Bytes of the values that one combination may produce on the samples handed over at a time.
_SAMPLE_BYTES = 128 << 20
#: Samples that tell whether samples influence one another, and how far their results may differ then, of
#: the largest result: far above rounding in float64.
_FEW = 4
_APART = 1e-6

#: How far results of a batch of combinations may be from those of single ones, of the largest: rounding.
_BATCHED, _BATCHED_FLOAT = {torch.bfloat16: 0.1, torch.float16: 0.02}, 1e-3

State = dict[str, Tensor]


class ReferenceBlock(NamedTuple):
    """A block of K combinations before any sample.

    Attributes:
        indices: int64 [K].
        mixed: all parameters, [K, ...] each, where they are known; None where the pass generates them.
        statistics: recomputed running statistics, [K, C] each.
    """

    indices: Tensor
    mixed: State | None
    statistics: State


class Plan(NamedTuple):
    """How a data set is run.

    Attributes:
        output: the model's output on the first few samples for one combination.
        chunk: samples to hand over at a time.
        coupled: whether samples influence one another, so that all have to be handed over together.
    """

    output: Any
    chunk: int
    coupled: bool


class TorchReference:
    """Reference backend: batched ``functional_call`` with virtual parameters.

    Combinations whose activations fit the caches together run as one batch under vmap; larger ones one
    after another, layer by layer in the compiled kernels where those are there. Without them, and for
    modules that vmap cannot batch, weights are generated for a whole block first.

    It runs a private copy of the module, whose state is put back after every pass, so that no combination
    finds what another one left.

    Args:
        mixture: the networks.
        model: the module; its weights are not used, its mode is, and neither is changed.
        dtype: compute dtype of parameters and inputs, and of buffers where it is not the networks' own.
            Parameters of several dtypes keep them where it is the mixture's, and inputs theirs.
        normalisation: what to do with running statistics and other buffers.

    Raises:
        ValueError: the mixture's parameters are not the model's.
        TypeError: the module cannot be copied.
    """

    name = "torch_reference"

    def __init__(
        self, mixture: Mixture, model: nn.Module, *, dtype: torch.dtype, normalisation: Normalisation
    ) -> None:
        self.mixture = mixture
        self.model = private_copy(model, share=True)
        self.dtype = dtype
        self._several = dtype == mixture.dtype and not mixture.uniform  # then each parameter keeps its own
        self.normalisation = normalisation
        self.slots = self.block = 1
        self._places = places(mixture, model)
        self._pristine = Pristine(self.model)
        self._writes_inputs = False
        self._inside = True  # until generating inside the pass fails
        self._calls: Calls | None = None  # while running statistics are collected
        self._shared = self._own(mixture.a.carried | (normalisation.fixed or {}))

    def plan(self, x: Samples, samples: int) -> Plan:
        """Choose slots and block for a data set, from sizes only (never from free memory or threads).

        Args:
            x: the first few of its samples.
            samples: how many there are.
        """
        coupled = self._coupled(self._ready(x[:_FEW]))
        x = self._ready(x)
        index = self.mixture.index_tensor([0])
        output, produced = self._measured(index, *arguments(x))
        per_sample = produced / len(x)
        fit = samples if coupled else power_of_two(_SAMPLE_BYTES / per_sample)
        chunk = min(samples, fit)
        self._size(per_sample * max([chunk, *map(len, self.normalisation.batches)]))
        self._settle(self.mixture.index_tensor([0, 1]), *arguments(x))  # any notice belongs before the work
        return Plan(mapped(lambda t: t[0], output), chunk, coupled)

    def _coupled(self, x: Samples) -> bool:
        """Whether the results of S samples x depend on which others they are run with."""
        if len(x) < 2:
            return False
        half = len(x) // 2
        try:
            whole, first, rest = self._apart(torch.float64, x, x[:half], x[half:])
        except Exception:  # a cast inside the module, or a fault of its own
            whole = self._apart(self.dtype, x)[0]
            try:
                first, rest = self._apart(self.dtype, x[:half], x[half:])
            except Exception:  # batch statistics refuse a single sample, for example
                return True
        for a, b, c in zip(whole, first, rest, strict=True):
            if not (a.ndim and b.ndim and c.ndim) or a.shape[1:] != b.shape[1:] or a.shape[1:] != c.shape[1:]:
                return True
            if len(a) != len(x) or len(b) != half or len(c) != len(x) - half:
                return True
            if not close(
                torch.cat([b, c]),
                a,
                max(_APART, 64 * torch.finfo(self.dtype).eps * (a.dtype != torch.float64)),
            ):
                return not self._random(x)
        return False

    def _apart(self, dtype: torch.dtype, *several: Samples) -> list[list[Tensor]]:
        """All tensors of the outputs of combination 0 on several inputs, in another dtype."""
        law = self if dtype == self.dtype else self.wider(dtype)
        index = self.mixture.index_tensor([0])
        statistics = {n: s[0] for n, s in law.prepare(index).statistics.items()}
        return [tensors(law.output(index, statistics, x)) for x in several]

    def wider(self, dtype: torch.dtype) -> TorchReference:
        """The same in another compute dtype."""
        return TorchReference(self.mixture, self.model, dtype=dtype, normalisation=self.normalisation)

    def _random(self, x: Samples) -> bool:
        """Whether the module draws random numbers; says so."""
        varies = self._random_call(arguments(x))
        if varies:
            notify(
                f"{type(self.model).__name__} returns something else each time it is called on the same "
                "samples, so its results are not a function of the combination alone; does it draw random "
                "numbers in eval mode?"
            )
        return varies

    @torch.no_grad()
    def prepare(self, index: Tensor) -> ReferenceBlock:
        """The combinations (int64 [K]) with statistics, and parameters unless the pass generates them."""
        return self._collected(ReferenceBlock(index, None if self._virtual else self._mixed(index), {}))

    @torch.no_grad()
    def given(self, mixed: State) -> ReferenceBlock:
        """Networks that are no combinations: their parameters [K, ...] by name, in the compute dtype."""
        count = len(next(iter(mixed.values())))
        return self._collected(ReferenceBlock(self.mixture.index_tensor(range(count)), mixed, {}))

    def _collected(self, prepared: ReferenceBlock) -> ReferenceBlock:
        """With statistics recomputed, where they are to be."""
        count = len(prepared.indices)
        totals: State = {}
        calls: dict[str, int] = {}
        for batch in self.normalisation.batches:
            with self._collecting() as counted:
                fresh = {
                    n: self._shared[n].new_zeros(count, *self._shared[n].shape) for n in counted.statistics
                }
                own = inputs.mapped(torch.clone, self._ready(batch))
                for _ in self._outputs(prepared._replace(statistics=fresh), *arguments(own)):
                    pass
            for name, value in fresh.items():  # each call counts once, as in torch's update_bn
                calls[name] = calls.get(name, 0) + counted.of(name)
                totals[name] = totals.get(name, 0) + counted.of(name) * value
        averages = {name: total / max(1, calls[name]) for name, total in totals.items()}
        for name in averages:
            if not calls[name]:  # never called on the calibration data: θ_A's
                averages[name] = self._shared[name].expand(count, *self._shared[name].shape).clone()
        return prepared._replace(statistics=averages)

    @contextlib.contextmanager
    def _collecting(self) -> Iterator[Calls]:
        """While normalisations record statistics, which is not to be undone after a pass."""
        pristine = self._pristine
        with collecting(self.model) as self._calls:
            self._pristine = Pristine(self.model)
            try:
                yield self._calls
            finally:
                self._pristine, self._calls = pristine, None

    def summed_metrics(self, prepared: ReferenceBlock, x: Samples, y: Tensor, scores: Scores) -> Tensor:
        """Sums over samples, float64 [measures, K], from the outputs of successive parts of the block."""
        y = y.to(self.mixture.device)
        return torch.cat([scores.of(outputs, y) for outputs in self._wide(prepared, x)], dim=1)

    def per_sample_metric(self, prepared: ReferenceBlock, x: Samples, y: Tensor, measure: Score) -> Tensor:
        """One measure on every sample, [K, S], from the outputs of successive parts of the block."""
        y = y.to(self.mixture.device)
        return torch.cat([measure(outputs, y) for outputs in self._wide(prepared, x)])

    def decide(
        self, prepared: ReferenceBlock, x: Samples, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        """None: only the plain rule answers here."""
        return None

    def _wide(self, prepared: ReferenceBlock, x: Samples) -> Iterator[Any]:
        """Outputs [k, S, ...] of successive parts of a block, half precision widened to float32."""
        for outputs in self._outputs(prepared, *arguments(self._ready(x))):
            yield mapped(
                lambda t: t.float() if t.is_floating_point() and t.dtype.itemsize < 4 else t, outputs
            )

    def statistics(self, index: int) -> State:
        """Buffers that combination ``index`` runs with, by name: fixed ones, and statistics recomputed."""
        recomputed = self.prepare(self.mixture.index_tensor([index])).statistics
        return (self.normalisation.fixed or {}) | {n: s[0] for n, s in recomputed.items()}

    def call(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Outputs of combinations ``index`` [K]: the module's own, each tensor with a leading K."""
        first, produced = self._measured(index[:1] if len(index) else index.new_zeros(1), args, kwargs)
        if not len(index):
            return mapped(lambda t: t[:0], first)
        self._size(produced)
        if not self._settle(index[:2], args, kwargs):
            first, _ = self._measured(index[:1], args, kwargs)
        parts = [first]
        for block in index[1:].split(self.block):
            if len(block):
                parts += self._outputs(self.prepare(block), args, kwargs)
        return joined(parts)

    def output(self, index: Tensor, statistics: State, x: Samples) -> Any:
        """Output on samples x of the one combination in ``index`` with given running statistics."""
        ready = {name: self._cast(value)[None] for name, value in statistics.items()}
        own = inputs.mapped(torch.clone, self._ready(x))
        (output,) = self._outputs(ReferenceBlock(index, self._mixed(index), ready), *arguments(own))
        return mapped(lambda t: t[0], output)

    @torch.no_grad()
    def network(self, parameters: Mapping[str, Tensor], carried: Mapping[str, Tensor], x: Samples) -> Any:
        """Output on samples x of a network with its own parameters, buffers and statistics."""
        shared = self._shared
        self._shared = self._own(carried)
        try:
            state = {n: t.to(self.mixture.device, self._kind(n), copy=True) for n, t in parameters.items()}
            own = inputs.mapped(torch.clone, self._ready(x))
            return mapped(lambda t: t[0], self._single(state, *arguments(own)))
        finally:
            self._shared = shared

    def _settle(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the module computes the same batched, or with generated weights, as with plain tensors.

        A forward may ask how its values lie in memory, which differs there. Then, and where vmap cannot
        batch it, combinations run one after another from now on.
        """
        prepared = self.prepare(index)
        outputs = joined(list(self._outputs(prepared, args, kwargs)))
        if not self._inside:
            return False
        mixed = self._mixed(index)
        for k in range(len(index)):
            statistics = {n: t[k].clone() for n, t in prepared.statistics.items()}
            arguments = tree_map(_copied, (args, kwargs))
            plain = self._single({n: t[k].contiguous() for n, t in mixed.items()} | statistics, *arguments)
            pairs = zip(tensors(outputs), tensors(plain), strict=True)
            limit = _BATCHED.get(self.dtype, _BATCHED_FLOAT)
            if not all(close(one[k].double(), other[0].double(), limit) for one, other in pairs):
                if self._random_call(arguments):
                    return True
                self.slots, self._inside = 1, False
                notify(
                    f"{type(self.model).__name__} runs combination by combination, since it computes "
                    "something else where they are batched; does its forward ask how values lie in memory?"
                )
                return False
        return True

    def _random_call(self, arguments: tuple[Any, Any]) -> bool:
        """Whether the module returns something else each time."""
        mixed = {n: t[0] for n, t in self._mixed(self.mixture.index_tensor([0])).items()}
        one, other = (tensors(self._single(dict(mixed), *tree_map(_copied, arguments))) for _ in range(2))
        return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True))

    def _size(self, produced: float) -> None:
        """Choose how many combinations to run together that each produce so many bytes."""
        weights = sum(self.mixture.shape(n).numel() for n in self.mixture.names) * self.dtype.itemsize
        budget = _BATCH_BYTES.get(self.mixture.device.type, _BATCH_BYTES_ELSEWHERE)
        self.slots = power_of_two(budget / (produced + weights), _MAX_BLOCK)
        self.block = power_of_two(budget / weights, _MAX_BLOCK)

    def _measured(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
        """Outputs [1, ...] of one combination, and the bytes of all values produced on the way."""
        prepared = self.prepare(index)
        args, kwargs = tree_map(_copied, (args, kwargs))
        self._writes_inputs = False  # so that the pass gets these copies, and not copies of them
        before = [t._version for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        with _ByteCounter() as counter:
            (output,) = self._outputs(prepared, args, kwargs)
        after = [t._version for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._writes_inputs = before != after  # then every combination gets a copy of its own
        return output, counter.total

    @property
    def _virtual(self) -> bool:
        """Whether parameters are generated inside the pass."""
        return self._inside and (self.slots > 1 or native.serves(self.mixture.device))

    def _mixed(self, index: Tensor) -> State:
        return {n: self.mixture.parameter(n, index, self._kind(n)) for n in self.mixture.names}

    def _kind(self, name: str) -> torch.dtype:
        """Dtype of a parameter."""
        return self.mixture.a.parameters[name].dtype if self._several else self.dtype

    def _outputs(self, block: ReferenceBlock, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Outputs [k, ...] of successive parts of a block; its statistics are updated by collecting."""
        done = 0
        arguments = (args, kwargs)
        while done < len(block.indices):
            part = slice(done, done + self.slots)
            statistics = {n: t[part] for n, t in block.statistics.items()}
            known = {n: t[part] for n, t in (block.mixed or {}).items()}
            virtual = self._virtual and (self.slots > 1 or not known)
            if virtual:
                args, kwargs = tree_map(_copied, arguments) if self._writes_inputs else arguments
                try:
                    yield self._generating(block.indices[part], known, statistics, args, kwargs)
                    done += self.slots
                    continue
                except Exception as error:
                    failure = error
            mixed = block.mixed or self._mixed(block.indices)
            while done < len(block.indices):
                statistics = {n: t[done] for n, t in block.statistics.items()}
                args, kwargs = tree_map(_copied, arguments) if self._writes_inputs else arguments
                # copies, since a module may write to its parameters, and other samples may follow
                yield self._single({n: t[done].clone() for n, t in mixed.items()} | statistics, args, kwargs)
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
        self, index: Tensor, known: State, statistics: State, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Outputs of up to ``slots`` combinations whose weights are known or generated on the way."""

        def virtual(index: Tensor, known: State) -> State:
            names = self.mixture.names
            return {n: VirtualParameter(self.mixture, n, index, self._kind(n), known.get(n)) for n in names}

        if self.slots == 1:
            first = {n: t[0] for n, t in statistics.items()}
            return self._single(virtual(index[0], {}) | first, args, kwargs)
        built: list[Any] = []

        def each(index: Tensor, known: State, statistics: State) -> list[Tensor]:
            output = self._run(virtual(index, known) | statistics, args, kwargs)
            built.append(output)
            return tensors(output)

        with warnings.catch_warnings():  # vmap's own loop over an operation is slow but right
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            outputs = vmap(each)(index, known, statistics)
        return rebuilt(built[-1], outputs)

    @torch.no_grad()
    def _single(self, state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return mapped(lambda t: t[None], self._run(state, args, kwargs))

    def _run(self, state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One pass with the tensors of ``state`` and copies of the shared ones, which it may write to."""
        placed = {place: t for name, t in state.items() for place in self._places.get(name, (name,))}
        fresh = {place: t.clone() for place, t in self._shared.items() if place not in placed}
        if self._calls is not None:
            self._calls.begin()
        try:
            output = functional_call(self.model, fresh | placed, args, kwargs, tie_weights=False)
        finally:
            self._pristine.restore()
        if not tensors(output):
            raise TypeError(f"{type(self.model).__name__} returns no tensor but a {type(output).__name__}")
        return output

    def _own(self, carried: Mapping[str, Any]) -> State:
        """What is not mixed, by place: buffers, and parameters that are no real floating-point numbers."""
        cast = self.dtype if self.dtype != self.mixture.dtype else None
        mixed = {place for places in self._places.values() for place in places}
        unmixed = {}
        for place, tensor in itertools.chain(
            *(slots(self.model, kind) for kind in ("parameters", "buffers"))
        ):
            if place not in mixed:
                value = carried.get(place, tensor)
                unmixed[place] = value.to(
                    self.mixture.device, cast if value.is_floating_point() else None
                ).detach()
        return unmixed

    def _ready(self, x: Samples) -> Samples:
        return inputs.mapped(self._cast, x)

    def _cast(self, tensor: Tensor) -> Tensor:
        cast = tensor.is_floating_point() and not self._several
        return tensor.to(self.mixture.device, self.dtype if cast else None)


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


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
