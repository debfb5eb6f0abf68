"""Narrow networks as a whole in one kernel of CUDA C++ (csrc/cuda/network.h)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcomb.backends.base import Unsupported, place
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.gpu.engine import DeviceBlock, Triton
from fastcomb.backends.gpu.mlp import Link, match_mlp
from fastcomb.kernels import cuda, native
from fastcomb.mixing import Mixture
from fastcomb.program import Weight
from fastcomb.utils.dtypes import dtype_name
from fastcomb.utils.inputs import Samples

#: Combinations of a launch, and most samples that it takes.
_BLOCK, _SAMPLES = 1 << 15, 1 << 16

#: Activations that csrc/ops.def calls otherwise.
_FUNCTIONS = {"": "identity", "gelu tanh": "gelu_tanh"}


class Fused(Triton):
    """Backend for narrow networks on CUDA devices: chains of linear layers, all at most 128 wide.

    A block of threads generates one combination's weights into shared memory and carries tiles of samples
    through all layers in registers, to the loss. What asks for outputs, not for a loss that the kernel knows,
    runs layer by layer as in :class:`Triton`.

    Args and errors are those of :class:`Triton`.
    """

    name = "cuda"

    def __init__(
        self,
        mixture: Mixture,
        model: nn.Module,
        x: Samples,
        *,
        dtype: torch.dtype,
        normalisation: Normalisation,
    ) -> None:
        super().__init__(mixture, model, x, dtype=dtype, normalisation=normalisation)
        module = cuda.kernels(mixture.device)
        if module is None:
            raise Unsupported("without the extension in CUDA C++")
        if len(mixture.steps) > module.max_steps:
            raise Unsupported(f"mixtures of more than {module.max_steps + 1} networks in one kernel")
        self._chain = match_mlp(self._program, module.max_layers)
        self._steps = 8 if dtype == torch.float32 else 16  # inputs of one matrix instruction
        self._module = module
        laws = native.laws(mixture.law_arguments, module)
        self._kernel = module.Plan(dtype=dtype_name(dtype), seed=mixture.seed, laws=laws)
        self._means: list[tuple[str, str] | None] = []
        inputs = _divided(self._shape(0)[1], self._steps)
        for at, link in enumerate(self._chain.links):
            inputs = self._add(at, link, inputs)
        if self._kernel.shared() > module.shared_memory(_number(mixture.device)):
            raise Unsupported(f"{self._kernel.shared():,} bytes of weights in one kernel")
        self._fixed = {name: value.float().contiguous() for name, value in self._fixed.items()}
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None
        self._piece = 1  # combinations whose statistics are recomputed at a time
        self._scored = self._unrecorded  # a single launch needs no graph

    def check(self, model: nn.Module, x: Samples) -> Tensor:
        """As :class:`Triton` does; and the kernel's losses against those of the outputs.

        Raises:
            Unsupported: they differ.
        """
        expected = super().check(model, x)
        prepared = self.prepare(self.mixture.index_tensor([0]))
        labels = torch.zeros(len(x), dtype=torch.int64, device=self.mixture.device)
        losses = F.cross_entropy(self.outputs(prepared, x)[0], labels, reduction="sum")
        self._loss = "cross_entropy"
        fused_loss = self._sums(*prepared, self._arranged(self._ready(x)), labels)[0, 0]
        limit = 1e-3 if self.dtype == torch.float32 else 0.1
        if torch.isfinite(losses) and abs(fused_loss - losses) > limit * (abs(losses) + len(x)):
            raise Unsupported("a network whose losses come out otherwise in one kernel")
        return expected

    def plan(self, samples: int, *, in_memory: bool) -> int:
        """As :class:`Triton`, but with 32,768 combinations or more to a launch, and at most 65,536 samples.

        Each combination is by itself there (``slots`` = 1); statistics are recomputed in Triton's own blocks.
        """
        super().plan(samples, in_memory=in_memory)
        self._piece = self.block
        self.slots, self.block = 1, max(_BLOCK, self.block)
        return min(samples, _SAMPLES)

    def prepare(self, index: Tensor) -> DeviceBlock:
        """As :class:`Triton`, whose blocks the combinations (int64 [K]) are divided into."""
        pieces = [super(Fused, self).prepare(piece) for piece in index.split(self._piece)]
        return DeviceBlock(index, torch.cat([piece.statistics for piece in pieces]))

    def _unrecorded(self, *arguments: Tensor, key: Any = None) -> Tensor:
        return self._sums(*arguments)

    def _arranged(self, x: Tensor) -> Tensor:
        """The samples in the order in which the matrix instructions read them, padded with zeros.

        [tiles of 16 samples, steps, 32 lanes, 16 bytes of registers]; see ``place`` in csrc/cuda/mma.h.
        """
        cached = self._kept
        if cached is None or cached[0] != place(x):
            values: dict[str, Any] = dict(zip(self._program.inputs, [x], strict=True))
            for node in self._chain.prefix:
                values[node.name] = self._program.apply(node, self._buffers, values)
            cached = self._kept = place(x), x, self._in_registers(values[self._chain.start])
        return cached[2]

    def _in_registers(self, x: Tensor) -> Tensor:
        """Rows [S, inputs] as :meth:`_arranged` describes them."""
        step = self._steps
        rows, columns = -(-len(x) // 16) * 16, _divided(x.shape[1], step) * step
        padded = F.pad(x, (0, columns - x.shape[1], 0, rows - len(x)))
        if step == 8:  # row of a half, half, step, pair of columns, column of the pair
            split = padded.view(rows // 16, 2, 8, columns // 8, 4, 2).permute(0, 3, 2, 4, 5, 1)
        else:  # the same with the step's halves after the step
            split = padded.view(rows // 16, 2, 8, columns // 16, 2, 4, 2).permute(0, 3, 2, 5, 4, 1, 6)
        return split.contiguous()

    def _sums(self, index: Tensor, statistics: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        """In one launch: sums of loss and accuracy, float64 [2, K], of samples from :meth:`_arranged`."""
        sums = torch.empty(2, len(index), dtype=torch.float64, device=index.device)
        running = self.recomputed(DeviceBlock(index, statistics))
        known = self._fixed | running
        moments = [names and tuple(known[name].contiguous() for name in names) for names in self._means]
        targets, index = targets.contiguous(), index.contiguous()
        if self._loss == "mse":
            targets = targets.flatten(1)
        with torch.cuda.device_of(index):
            self._kernel.run(
                x=x,
                targets=targets,
                index=index,
                sums=sums,
                loss=self._loss,
                statistics=moments,
                stream=cuda.stream(index.device),
            )
        return sums

    def _add(self, at: int, link: Link, steps: int) -> int:
        """Put a link into the kernel's plan; the steps of the next one's inputs."""
        outputs, inputs = self._shape(at)
        last = at + 1 == len(self._chain.links)
        per_step = self._steps // 8
        tiles = _divided(outputs, 8) if last else _divided(outputs, self._steps) * per_step
        layer, norm = link.epilogue.node, link.epilogue.norm
        weights = [layer.arguments["weight"], layer.arguments["bias"]]
        weights += [norm.arguments[key] if norm else None for key in ("weight", "bias")]
        kind = norm.op if norm else "none"
        eps = norm.arguments["eps"] if norm else 0.0
        weight, bias, gamma, beta = (self._parameter(weight) for weight in weights)
        self._kernel.add(
            weight=weight,
            bias=bias,
            gamma=gamma,
            beta=beta,
            inputs=inputs,
            outputs=outputs,
            steps=steps,
            tiles=tiles,
            norm=kind,
            eps=eps,
            activation=_FUNCTIONS.get(link.epilogue.activation, link.epilogue.activation),
            save=link.save,
            adds=link.add is not None,
        )
        if norm is not None and kind == "batch_norm":
            keys = ("running_mean", "running_var")
            mean, variance = (norm.arguments[key].name for key in keys)
            self._means.append((mean, variance))
        else:
            self._means.append(None)
        return tiles // per_step

    def _parameter(self, weight: Weight | None) -> Any:
        if weight is None:
            return None
        if weight.kind != "parameter":
            raise Unsupported(f"{weight.name!r}, which is not mixed, in one kernel")
        return cuda.parameter(self._module, self.mixture.mixed(weight.name))

    def _shape(self, at: int) -> tuple[int, int]:
        """Outputs and inputs of a link."""
        outputs, inputs = self._program.shapes[self._chain.links[at].epilogue.node.arguments["weight"].name]
        return outputs, inputs


def _divided(value: int, by: int) -> int:
    return -(-value // by)


def _number(device: torch.device) -> int:
    """A CUDA device's number."""
    if device.index is not None or device.type != "cuda":
        return device.index or 0
    return torch.cuda.current_device()
