"""The operators for single layers of mixed weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcomb as fc
from fastcomb.mixing.ops import mix
from fastcomb.sampling.rules import encoded

LINEAR, CONV = torch.ops.fastcomb.mixed_linear, torch.ops.fastcomb.mixed_conv2d
LAW = fc.Uniform()
REST = (LAW.table()[None], encoded([LAW.rule()]), [7, 0, 16, 0])
GEOMETRY = ([2, 1], [1, 2], [1, 2], 2)


def weights(index, pair, unit, dtype):
    return mix(index, *pair, *REST, unit, dtype)


def linear(inner, outputs, bias=True):
    """Arguments after the input and the index, and what generates weight and bias."""
    torch.manual_seed(0)
    pairs = [
        (torch.randn(outputs, inner), torch.randn(1, outputs, inner)),
        (torch.randn(outputs), torch.randn(1, outputs)),
    ]
    units = [[1, outputs * inner, 0], [0, outputs, 0]]
    biases = pairs[1] if bias else (None, None)
    return [*pairs[0], *biases, *REST, *units], pairs, units


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 7), (1, 7), (0, 7), (500, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch_on_the_generated_weights(dtype, shape, bias):
    inner, outputs = shape[-1], 33
    arguments, pairs, units = linear(inner, outputs, bias)
    index = torch.tensor([2, 0, 9])
    w = weights(index, pairs[0], units[0], dtype)
    b = weights(index, pairs[1], units[1], dtype) if bias else [None] * 3
    # one rounding of the result to the dtype, on sums of up to 64 products
    close = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float64: 1e-12}[dtype]
    for own in (False, True):
        x = torch.randn(*([3] if own else []), *shape).to(dtype)
        found = LINEAR(x, index, *arguments, own)
        wanted = torch.stack([F.linear(x[k] if own else x, w[k], b[k]) for k in range(3)])
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, rtol=close, atol=10 * close)
    torch.testing.assert_close(
        LINEAR(x[0], index[0], *arguments, False), wanted[0], rtol=close, atol=10 * close
    )
    assert LINEAR(x, index[:0], *arguments, False).shape == (0, *x.shape[:-1], outputs)


def test_conv2d_equals_torch_on_the_generated_weights():
    torch.manual_seed(0)
    pair = torch.randn(6, 2, 3, 2), torch.randn(1, 6, 2, 3, 2)
    unit, none = [1, 72, 0], [0, 0, 0]
    index = torch.tensor([2, 0])
    w = weights(index, pair, unit, torch.float32)
    x = torch.randn(2, 5, 4, 9, 8)
    found = CONV(x, index, *pair, None, None, *REST, unit, none, True, *GEOMETRY)
    for k in range(2):
        torch.testing.assert_close(found[k], F.conv2d(x[k], w[k], None, *GEOMETRY))
    one = CONV(x[1], index[1], *pair, None, None, *REST, unit, none, False, *GEOMETRY)
    torch.testing.assert_close(one, found[1])


@pytest.mark.parametrize("own", [False, True])
def test_they_keep_their_contract_with_torch(own):
    """torch.library's own checks: schema, fake tensors, tracing with dynamic shapes."""
    arguments, _, _ = linear(7, 5)
    index = torch.tensor([1, 3])
    x = torch.randn(*([2] if own else []), 4, 7)
    torch.library.opcheck(LINEAR.default, (x, index, *arguments, own))
    pair = torch.randn(6, 2, 3, 2), torch.randn(1, 6, 2, 3, 2)
    images = torch.randn(*([2] if own else []), 5, 4, 9, 8)
    rest = (*pair, None, None, *REST, [1, 72, 0], [0, 0, 0], own, *GEOMETRY)
    torch.library.opcheck(CONV.default, (images, index, *rest))


def test_vmap_over_the_index_is_the_batched_operator():
    arguments, _, _ = linear(7, 5)
    index, x = torch.tensor([1, 3, 2]), torch.randn(3, 4, 7)
    shared = torch.vmap(lambda i: LINEAR(x[0], i, *arguments, False))(index)
    assert torch.equal(shared, LINEAR(x[0], index, *arguments, False))
    own = torch.vmap(lambda x, i: LINEAR(x, i, *arguments, False))(x, index)
    assert torch.equal(own, LINEAR(x, index, *arguments, True))
    with pytest.raises(RuntimeError, match="batched over the combination index"):
        torch.vmap(lambda x: LINEAR(x, index[0], *arguments, False))(x)


def test_they_compile():
    arguments, _, _ = linear(7, 5)
    index, x = torch.tensor([1, 3]), torch.randn(4, 7)

    def layer(x, index):
        return LINEAR(x, index, *arguments, False).relu() + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, index), layer(x, index))


def test_a_module_that_cannot_be_captured_uses_them():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 40), nn.Linear(40, 3)

        def forward(self, x):
            hidden = self.one(x)
            return self.two(hidden if hidden.sum().item() < 1e9 else -hidden)

    a, b = Asking().eval(), Asking().eval()
    x, y = torch.randn(9, 6), torch.randint(0, 3, (9,))
    with torch.profiler.profile() as profile, pytest.warns(fc.BackendNotice, match="cannot"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=5)
    assert any("mixed_linear" in event.key for event in profile.key_averages())
    logits = torch.func.functional_call(a, sweep.mixture[4], (x,))
    assert sweep.loss[4] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
