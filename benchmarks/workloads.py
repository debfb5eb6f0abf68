"""The networks and data sets that throughput is measured on.

Weights and samples are random: speed does not depend on their values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import networks
from fastcomb.models import MLP, ResNet20, Tiny10

HUB = "transformers"


@dataclass(frozen=True)
class Workload:
    """One combination is a forward pass over ``samples`` inputs of ``shape``."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    #: combinations per timed call; enough for about a tenth of a second
    combinations: int
    #: combinations that the stacking peers hold at a time
    stacked: int
    #: of the tokens that the inputs are; 0 for numbers
    words: int = 0
    #: package that the network is from
    package: str = ""

    def pair(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return self.make().eval(), self.make().eval()

    def data(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        if self.words:
            x = torch.randint(1, self.words, (self.samples, *self.shape), generator=generator)
        else:
            x = torch.randn(self.samples, *self.shape, generator=generator)
        return x, torch.randint(0, 10, (self.samples,), generator=generator)

    def flops(self) -> int:
        """Floating-point operations of one combination's matrix products and convolutions."""
        # as single products, which the counter knows
        whole = torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
        with whole[0], whole[1], FlopCounterMode(display=False) as counter, torch.no_grad():
            self.make().eval()(self.data()[0])
        return int(counter.get_total_flops())


def _mlp(*widths: int) -> Callable[[], nn.Module]:
    return lambda: MLP(widths)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W0", _mlp(64, 32, 10), (64,), 360, 1024, 64),
        Workload("W1", _mlp(784, 64, 64, 10), (784,), 500, 128, 16),
        Workload("W2-100", _mlp(784, 512, 512, 512, 10), (784,), 100, 32, 8),
        Workload("W2-1000", _mlp(784, 512, 512, 512, 10), (784,), 1000, 8, 4),
        Workload("W3", Tiny10, (3, 32, 32), 250, 4, 2),
        Workload("W4", ResNet20, (3, 32, 32), 250, 2, 2),
        *(
            Workload(name, networks.hugging_face(name), (networks.TOKENS,), 64, 2, 2, networks.WORDS, HUB)
            for name in ("bert", "gpt2", "llama")
        ),
        Workload("vit", networks.hugging_face("vit"), (3, 32, 32), 64, 2, 2, package=HUB),
        Workload("lstm", networks.Recurrent, (32, 64), 64, 64, 4),
        Workload("conv1d", networks.conv1d, (16, 128), 64, 32, 4),
        Workload("unet", networks.UNet, (3, 32, 32), 32, 16, 2),
    )
}
#: On GPUs: more combinations at a time.
GPU_WORKLOADS = {
    name: replace(WORKLOADS[like], name=name, samples=samples, combinations=stacked, stacked=stacked)
    for name, like, samples, stacked in (
        ("W0", "W0", 360, 1024),
        ("W1", "W1", 500, 256),
        ("W2-128", "W2-100", 128, 64),
        ("W2-1000", "W2-1000", 1000, 64),
        ("W2-10000", "W2-1000", 10_000, 16),
        ("W3", "W3", 250, 16),
        ("W4", "W4", 250, 16),
    )
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def installed(workload: Workload) -> bool:
    """Whether the package that a network is from is there."""
    return not workload.package or importlib.util.find_spec(workload.package) is not None
