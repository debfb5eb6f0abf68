"""Networks with known symmetries, and ways to disturb them."""

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.rebasin import symmetries

# sizes of the groups, derived by hand: the hidden widths of a chain; for ResNet20, in each of three stages,
# the residual stream and the inner convolutions of three blocks
FAMILIES = {
    "mlp": (lambda: MLP((20, 17, 13, 5)), [17, 13]),
    "tiny10": (Tiny10, [16, 16, 32, 32, 32, 64, 64, 64]),
    "vgg": (VGG, [16, 32, 64, 64, 64]),
    "vgg_bn": (lambda: VGG(batch_norm=True), [16, 32, 64, 64, 64]),
    "resnet20": (ResNet20, [16] * 4 + [32] * 4 + [64] * 4),
}

# residual stream of 32; per layer 4 heads, in each of them 8 features of queries and keys and 8 of values,
# and 128 hidden units
VIT = [32, *([4] + [8] * 8 + [128]) * 2]

MAKERS = {name: make for name, (make, _) in FAMILIES.items()} | {"vit": ViT}
#: Their names, the deepest one's marked slow.
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n == "resnet20" else n for n in MAKERS]


def randomise(model, seed):
    """Running statistics, scales and biases as random as the weights."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if tensor.ndim == 1:
                tensor.copy_(drawn + 0.5)
            elif not tensor.any():
                tensor.copy_(drawn - 0.5)
    return model.eval()


def randomised(make, seed):
    torch.manual_seed(seed)
    return randomise(make(), seed)


def shuffled(model, seed, *inputs):
    """The same function with its hidden units in another order, and the matching used."""
    groups = symmetries(fc.capture(model, *inputs))
    planted = groups.random(seed)
    return groups.permute(model.state_dict(), planted), groups, planted


def inputs(model, count=4):
    shape = (20,) if isinstance(model, MLP) else (3, 32, 32)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))


def operations(model, x):
    """A network's output by its captured operations, one by one, on weights that need no gradient.

    The module itself may differ in the last bits, on some processors: torch's attention has paths of its own,
    and torch.matmul puts its products together in other ways where a weight needs a gradient.
    """
    state = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    with torch.no_grad():
        found = fc.capture(model, x).run(state, x)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5 * float(found.abs().max()))
    return found


def distance(a: nn.Module, b: nn.Module) -> float:
    b = b.state_dict()
    return sum(float(((t.detach() - b[n]).double() ** 2).sum()) for n, t in a.named_parameters())
