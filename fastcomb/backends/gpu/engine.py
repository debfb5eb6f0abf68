"""The Triton backend: the whole Program for batches of combinations, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Score, Scores, Unsupported, power_of_two
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.captured import buffers_of, check, program_of, recomputed, record
from fastcomb.backends.gpu.forward import Forward, Moments
from fastcomb.backends.gpu.layers import match_layers
from fastcomb.backends.gpu.replay import Replay
from fastcomb.backends.gpu.weights import Weights
from fastcomb.kernels import triton
from fastcomb.mixing import Mixture
from fastcomb.statistics.sequential_decision import Answer, Question
from fastcomb.utils.inputs import Inputs, Samples

#: Bytes of a device's second-level cache; in the interpreter, which has none, small batches.
_CACHE, _CACHE_INTERPRETED = 50 << 20, 1 << 15
#: Most combinations that pass together, and most operations in a CUDA graph.
_MOST_TOGETHER, _MOST_OPERATIONS = 1 << 10, 1 << 12
#: Fewest samples handed over at a time, so that wide networks fill the device.
_FEWEST_SAMPLES = 64


class DeviceBlock(NamedTuple):
    """Combinations before any sample: numbers int64 [K], and recomputed statistics float32 [K, floats]."""

    numbers: Tensor
    statistics: Tensor


class Triton:
    """Backend for CUDA devices.

    Batches of combinations pass through the network layer by layer. A batch is so large that its
    activations stay in the device's second-level cache, and the samples are divided for that too; weights
    are generated for a group of batches at a time. Of the samples handed over, two numbers per combination
    come back.

    Args:
        mixture, model, dtype, normalisation: as for the reference.
        x: the first few samples; their shape is that of all others.

    Raises:
        Unsupported: the backend cannot run this model, dtype or device; the message says why.
        ValueError: the mixture's parameters are not the model's.
    """

    name = "triton"

    def __init__(
        self,
        mixture: Mixture,
        model: nn.Module,
        x: Samples,
        *,
        dtype: torch.dtype,
        normalisation: Normalisation,
    ) -> None:
        if not (triton.serves(mixture.device) or (mixture.device.type == "cpu" and triton.interpreted())):
            raise Unsupported(f"on the device {mixture.device}" if triton.installed() else "without Triton")
        if dtype not in triton.DTYPES:
            raise Unsupported(f"the dtype {dtype}")
        if isinstance(x, Inputs):
            raise Unsupported("several inputs")
        self.mixture, self.dtype, self.normalisation = mixture, dtype, normalisation
        x = self._ready(x)
        self._program = program_of(model, mixture, x)
        for node in self._program:
            if node.op == "batch_norm" and (
                node.arguments["training"] or node.arguments["running_mean"] is None
            ):
                raise Unsupported("batch_norm with the statistics of the batch")
            if node.op == "dropout" and node.arguments["train"]:
                raise Unsupported("dropout in training mode")
        self._places = record(self._program)[0] if normalisation.batches else {}
        buffers = buffers_of(model, mixture, normalisation)
        constants = {**buffers, **self._program.constants}
        self._buffers = {name: self._ready(value) for name, value in constants.items()}
        self._fixed = {n: v for n, v in buffers.items() if v.is_floating_point()}
        self._calibration = [self._ready(batch) for batch in normalisation.batches]
        self._plans = {norms: match_layers(self._program, norms=norms) for norms in (False, True)}
        self._scored: Callable[..., Tensor] = Replay(self._sums)
        self._collected = Replay(self._statistics)
        self._loss = ""
        self.slots = self.block = self._together = self._group = 1

    def check(self, model: nn.Module, x: Samples) -> Tensor:
        """Compare combination 0 with the module itself (:func:`fastcomb.backends.captured.check`)."""
        return check(self, model, x)

    def plan(self, samples: int, *, in_memory: bool) -> int:
        """Choose how many combinations pass together; the samples to hand over at a time.

        From sizes and the device only, so that results do not depend on what else it is doing, unless memory
        is short.
        """
        size = self.dtype.itemsize
        per_sample = 3 * size * max(_entries(shape) for shape in self._program.value_shapes.values())
        weights = size * sum(self.mixture.shape(name).numel() for name in self.mixture.names)
        cache = self._cache()
        parts = max(1, min(math.ceil(4 * per_sample * samples / cache), samples // _FEWEST_SAMPLES))
        chunk = math.ceil(samples / parts)
        self.slots = self._together = power_of_two(0.6 * cache / (per_sample * chunk), _MOST_TOGETHER)
        self._group = max(self._together, power_of_two(cache / 3 / weights, _MOST_TOGETHER))
        passes = max(1, _MOST_OPERATIONS // (2 * len(self._program)) * self._together // self._group)
        self.block = self._group * power_of_two(passes, 64)
        return chunk

    @torch.no_grad()
    def prepare(self, index: Tensor) -> DeviceBlock:
        """The combinations (int64 [K]) with their recomputed statistics, which may be none ([K, 0])."""
        if not self._calibration:
            return DeviceBlock(index, torch.empty(len(index), 0, device=index.device))
        with torch.cuda.device_of(index):
            return DeviceBlock(index, self._collected(index))

    @torch.no_grad()
    def summed_metrics(self, prepared: DeviceBlock, x: Samples, y: Tensor, scores: Scores) -> Tensor:
        """Sums over samples, float64 [measures, K]: in a kernel if it knows the loss, else of the outputs.

        Accuracy that has no meaning is NaN.
        """
        given, y = self._ready(x), y.to(self.mixture.device)
        if not self._fuses(scores, given, y):
            return torch.cat([scores.of(outputs, y) for outputs in self._outputs(*prepared, given)], dim=1)
        self._loss = scores.name
        targets = y.float() if scores.name == "mse" else y
        with torch.cuda.device_of(given):
            sums = self._scored(*prepared, self._arranged(given), targets, key=scores.name)
        if not scores.classes:
            sums[1] = torch.nan
        return sums

    @torch.no_grad()
    def per_sample_metric(self, prepared: DeviceBlock, x: Samples, y: Tensor, measure: Score) -> Tensor:
        """One measure on every sample, [K, S], from the outputs of successive batches."""
        y = y.to(self.mixture.device)
        return torch.cat([measure(outputs, y) for outputs in self._outputs(*prepared, self._ready(x))])

    def decide(
        self, prepared: DeviceBlock, x: Samples, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        """None: there is no kernel for the question, so the plain rule answers it."""
        return None

    @torch.no_grad()
    def outputs(self, prepared: DeviceBlock, x: Samples) -> Tensor:
        """The model's outputs float32 [K, S, ...]."""
        return torch.cat(list(self._outputs(*prepared, self._ready(x))))

    def recomputed(self, prepared: DeviceBlock) -> dict[str, Tensor]:
        """Recomputed running statistics [K, C] by name."""
        return recomputed(self._program, self._places, prepared.statistics)

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Buffers that combination ``index`` runs with, by name: fixed ones, and statistics recomputed."""
        statistics = self.recomputed(self.prepare(self.mixture.index_tensor([index])))
        return (self.normalisation.fixed or {}) | {name: value[0] for name, value in statistics.items()}

    # --- the work, free of synchronisation ---

    def _arranged(self, x: Tensor) -> Tensor:
        """The samples as :meth:`_sums` takes them."""
        return x

    def _sums(self, index: Tensor, statistics: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        """Sums of loss and accuracy, float64 [2, K], of samples from :meth:`_arranged`."""
        score = partial(triton.load().score, targets=targets, loss=self._loss)
        return torch.cat([score(outputs) for outputs in self._outputs(index, statistics, x)], dim=1)

    def _outputs(self, index: Tensor, statistics: Tensor, x: Tensor) -> Iterator[Tensor]:
        """Outputs [k, S, ...] of successive batches, float32."""
        x = _images(x)
        for weights, part in self._batches(index, statistics):
            forward = Forward(self._program, self._plans[True], weights, part, self._buffers)
            with torch.cuda.device_of(x):
                outputs = forward.run(x).float()
            yield outputs

    def _statistics(self, index: Tensor) -> Tensor:
        """Records of recomputed statistics, float32 [K, floats]: averages over the calibration batches."""
        records = []
        for weights, part in self._batches(index, None):
            total: Any = 0
            for batch in self._calibration:
                moments: Moments = {}
                forward = Forward(self._program, self._plans[False], weights, part, self._buffers, moments)
                forward.run(_images(batch))
                pairs = [torch.cat(moments[name], dim=1) for name in self._places]
                total = total + torch.cat(pairs, dim=1) / len(self._calibration)
            records.append(total)
        return torch.cat(records)

    def _batches(self, index: Tensor, statistics: Tensor | None) -> Iterator[tuple[Weights, slice]]:
        """The batches of combinations: their group's weights, and which of the group they are."""
        for first in range(0, len(index), self._group):
            group = slice(first, first + self._group)
            of_group = None if statistics is None else statistics[group]
            running = recomputed(self._program, self._places, of_group)
            weights = Weights(self.mixture, self.dtype, index[group], self._fixed | running)
            for at in range(0, len(weights.index), self._together):
                yield weights, slice(at, at + self._together)

    def _fuses(self, scores: Scores, x: Tensor, y: Tensor) -> bool:
        """Whether loss and accuracy are computed in a kernel."""
        _, *output = self._program.value_shapes[self._program.returned[0]]
        fits = scores.name != "mse" or y.shape == (len(x), *output)
        return fits and len(scores.measures) <= 2 and scores.in_kernels(len(output), y)

    def _cache(self) -> float:
        """Bytes that a batch may take: of the second-level cache, and never much of what memory is free."""
        if self.mixture.device.type != "cuda":
            return _CACHE_INTERPRETED
        properties = torch.cuda.get_device_properties(self.mixture.device)
        free, _ = torch.cuda.mem_get_info(self.mixture.device)
        return min(getattr(properties, "L2_cache_size", _CACHE), free / 8)

    def _ready(self, tensor: Samples) -> Tensor:
        assert isinstance(tensor, Tensor)  # which was refused otherwise
        return tensor.detach().to(self.mixture.device, self.dtype if tensor.is_floating_point() else None)


def _images(x: Tensor) -> Tensor:
    """Samples with channels innermost in memory, if they are images."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _entries(shape: tuple[int | str, ...]) -> int:
    return math.prod(size for size in shape if isinstance(size, int))
