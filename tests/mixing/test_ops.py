"""Mixing: fused multiply-add in float32, exact at the corners, and the operator's contract with torch."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastcomb as fc
from fastcomb.sampling.fma import fma
from fastcomb.sampling.rules import encoded

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


@given(x=FLOATS, y=FLOATS, z=FLOATS)
@example(x=1 + 2.0**-23, y=1 + 2.0**-23, z=2.0**-60)
@example(x=2.0**-12 * (1 + 2.0**-23), y=2.0**-12 * (1 - 2.0**-23), z=1.0)  # just below half an ulp of 1
@example(x=2.0**-12 * (1 + 2.0**-23), y=2.0**-12, z=1.0)  # just above
@example(x=2.0**-100, y=2.0**-49 + 2.0**-60, z=2.0**-149)  # subnormal results
@settings(max_examples=500, deadline=None)
def test_fma_rounds_once(x, y, z):
    found = np.float32(fma(*(torch.tensor([v], dtype=torch.float32) for v in (x, y, z))).item())
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    error = abs(Fraction(float(found)) - exact)
    for direction in (-np.inf, np.inf):
        other = np.nextafter(found, np.float32(direction))
        if np.isfinite(other):
            rival = abs(Fraction(float(other)) - exact)
            # nearest, and on a tie the one with an even last bit
            assert error < rival or (error == rival and found.view(np.uint32) % 2 == 0)


def test_fma_where_two_roundings_would_be_wrong():
    """The sum in float64 lands exactly between two float32 numbers; the exact sum does not."""
    x = torch.tensor([1 + 2.0**-23])
    y = torch.tensor([2.0**-24])  # product: 2**-24 + 2**-47, above the half-ulp boundary of 1
    z = torch.tensor([1.0])
    tiny = torch.tensor([2.0**-60])
    assert fma(x, y, z).item() == 1 + 2.0**-23
    # 2**24 + 1 + 2**-60: a tie in float64, above it exactly
    assert fma(torch.tensor([1.0]), tiny, torch.tensor([1.0])).item() == 1.0
    big = fma(torch.tensor([2.0**-30]), torch.tensor([-(2.0**-30)]), torch.tensor([2.0**24]))
    assert big.item() == 2.0**24


SIZES = [(), (0,), (1,), (3,), (63,), (100, 5), (4, 3, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("per", ["element", "neuron", "layer", "model"])
def test_corners_are_bit_for_bit(per, dtype):
    torch.manual_seed(0)
    a = {f"m{i}.w": torch.randn(s).to(dtype) for i, s in enumerate(SIZES)}
    b = {n: torch.randn_like(t) for n, t in a.items()}
    a["zero.w"] = torch.tensor([0.0, -0.0, 0.0, -0.0], dtype=dtype)
    b["zero.w"] = torch.tensor([-0.0, 0.0, 1.0, -1.0], dtype=dtype)
    if dtype == torch.float64:  # mixing is float32
        a, b = ({n: t.float().double() for n, t in side.items()} for side in (a, b))

    def bits(tensor):
        return tensor.reshape(-1).view(torch.uint8)

    for t, side in ((0.0, a), (1.0, b)):
        state = fc.Mixture(a, b, fc.Constant(t, per=per))[3]
        assert all(torch.equal(bits(state[n]), bits(side[n])) for n in side)
    mix = fc.Mixture(a, b, fc.Bernoulli(0.5, per=per), seed=4)
    state, lam = mix[9], mix.coefficients(9)
    for n in a:
        assert torch.equal(bits(state[n]), bits(torch.where(lam[n] == 1, b[n], a[n])))


@pytest.mark.parametrize(
    "sampler",
    [fc.Uniform(), fc.Normal(), pytest.param(fc.Beta(2, 2, bits=32), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("per", ["element", "neuron", "layer", "model"])
def test_weights_equal_the_formula(per, sampler):
    import dataclasses

    torch.manual_seed(0)
    a = {f"m{i}.w": torch.randn(s) for i, s in enumerate(SIZES)}
    b = {n: torch.randn_like(t) for n, t in a.items()}
    mix = fc.Mixture(a, b, dataclasses.replace(sampler, per=per), seed=4)
    state, lam = mix[2], mix.coefficients(2)
    for n in a:
        wide = a[n].double() + lam[n].double() * (b[n] - a[n]).double()
        # one float32 rounding of the exact value (fma itself is tested against rationals above)
        assert torch.equal(state[n], wide.float())


def test_the_operator_keeps_its_contract_with_torch():
    """torch.library's own checks: schema, fake tensors, tracing with dynamic shapes."""
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    table = fc.Uniform().table()[None]
    for index in (torch.tensor(3), torch.arange(4)):
        for count, per_row in ((30, 0), (6, 1), (1, 0)):
            unit = [2, count, per_row]
            arguments = (
                index,
                a,
                b[None],
                table,
                encoded([fc.Uniform().rule()]),
                [7, 0, 16, 0],
                unit,
                torch.bfloat16,
            )
            torch.library.opcheck(torch.ops.fastcomb.mix.default, arguments)


def test_vmap_over_the_index_is_the_batched_operator():
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    rest = (
        a,
        b[None],
        fc.Uniform().table()[None],
        encoded([fc.Uniform().rule()]),
        [7, 0, 16, 0],
        [2, 30, 0],
        torch.float32,
    )
    batched = torch.ops.fastcomb.mix(torch.arange(5), *rest)
    assert torch.equal(torch.vmap(lambda i: torch.ops.fastcomb.mix(i, *rest))(torch.arange(5)), batched)
    assert torch.equal(torch.ops.fastcomb.mix(torch.tensor(2), *rest), batched[2])
