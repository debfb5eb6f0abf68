"""Networks whose activations at a layer are given, to match directly."""

import torch
from torch import nn

from fastcomb import stitching


class Given(nn.Module):
    """A fixed linear map of the inputs at "inner", then a classifier."""

    def __init__(self, weight, classes=3):
        super().__init__()
        self.inner = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(weight.shape[0], classes)
        with torch.no_grad():
            self.inner.weight.copy_(weight)


def pair(seed, samples=80, widths=(6, 4), inputs=9, map=None, first=None):
    """Two cuts whose activations are x = A u and y = B u (or ``map x``), and inputs u [samples, inputs]."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(samples, inputs, generator=generator) + 0.5
    drawn = torch.randn(widths[0], inputs, generator=generator)
    first = drawn if first is None else first
    second = torch.randn(widths[1], inputs, generator=generator) if map is None else map @ first
    torch.manual_seed(seed)
    models = [nn.Sequential() for _ in range(2)]
    for model, weight in zip(models, (first, second), strict=True):
        given = Given(weight)
        for name, module in given.named_children():
            model.add_module(name, module)
    cuts = [stitching.cut(model.eval(), "inner", u) for model in models]
    return *cuts, u


def activations(a, b, u):
    """x [samples, widths[0]], y [samples, widths[1]] in float64."""
    with torch.no_grad():
        return a.bottom(u).double(), b.bottom(u).double()
