"""The Triton kernels: in the interpreter (on a GPU: compiled) against the reference, and compiled for GPUs.

Coefficients must agree bit for bit. The interpreter's fused multiply-add rounds twice, so mixed weights may
differ there by one rounding of the product, 2⁻²⁴ of its size, and one of the sum.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch

import fastcomb as fc
from fastcomb.mixing import reference

pytest.importorskip("triton")

from fastcomb.triton import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAWS = {
    "uniform": fc.Uniform,
    "vicinity": lambda **options: fc.Uniform(-1, 2, **options),
    "bernoulli": lambda **options: fc.Bernoulli(0.3, **options),
    "normal": fc.Normal,
    "constant": lambda **options: fc.Constant(0.25, **options),
    "law": lambda **options: fc.Law(scipy.stats.truncnorm(-1, 1, 0.5, 0.3), **options),
}
GRANULARITIES = ("element", "neuron", "layer", "model")
INDICES = [0, 3, 2**40 + 1, 2**64 - 1]


def mixture(shape, sampler, networks=2, seed=(9 << 32) | 5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    thetas = [{"m.w": torch.randn(shape, generator=generator)} for _ in range(networks)]
    return fc.Mixture(thetas[0], thetas[1:], sampler, seed=seed).to(torch.device(DEVICE))


def both(mix, name="m.w", ends=None, dtype=torch.float32):
    """A parameter by the kernel and by the reference; ``ends`` replaces the networks' values."""
    index = mix.index_tensor(INDICES)
    a, others = mix.values(name) if ends is None else ends
    unit = mix.units[name].numbers
    tables, rules, draw = mix.law_arguments
    found = kernels().mix(index, a, others, tables, rules, draw, unit, dtype)
    return found, reference(index, a, others, tables, draw, unit, dtype)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("per", GRANULARITIES)
@pytest.mark.parametrize("bits", [16, 32])
def test_coefficients_agree_bit_for_bit(law, per, bits):
    if bits == 32 and law == "law":
        pytest.skip("a table like the normal law's, which takes scipy five seconds")
    for shape in ((0,), (1,), (3,), (63,), (100, 5), (7, 500), (5, 3, 3, 3)):
        mix = mixture(shape, LAWS[law](per=per, bits=bits))
        a, others = mix.values("m.w")
        # between 0 and 1 a mixed weight is the coefficient itself
        found, expected = both(mix, ends=(torch.zeros_like(a), torch.ones_like(others)))
        assert torch.equal(found, expected), shape


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_mixed_weights_agree(law, dtype):
    mix = mixture((31, 20), LAWS[law](), dtype=dtype)
    found, expected = both(mix, dtype=dtype)
    a, others = mix.values("m.w")
    size = float(3 * (others[0] - a).abs().max() + a.abs().max())
    rounding = 2.0**-23 if dtype == torch.float32 else 2.0**-10
    assert found.dtype == dtype
    assert float((found.double() - expected.double()).abs().max()) <= size * rounding


def test_exact_ends_stay_exact():
    mix = mixture((40, 9), fc.Bernoulli(0.5))
    found, _ = both(mix)
    a, others = mix.values("m.w")
    assert ((found == a) | (found == others[0])).all()


def test_several_networks():
    mix = mixture((12, 11), fc.Dirichlet(0.7), networks=4)
    found, expected = both(mix)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    a, others = mix.values("m.w")
    step = torch.zeros_like(others)
    step[1] = 1  # from 0 to 1 in the second step, back in the third: a product of coefficients
    found, expected = both(mix, ends=(torch.zeros_like(a), step))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("per", GRANULARITIES)
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "sizes", [(8, 5, 3), (63, 3, 100), (100, 17, 5), (16, 16, 1), (40, 70, 300), (1, 1, 1)]
)
def test_mixed_linear(sizes, per, bits, own):
    inputs, outputs, samples = sizes
    generator = torch.Generator().manual_seed(2)
    thetas = [
        {
            "m.weight": torch.randn(outputs, inputs, generator=generator),
            "m.bias": torch.randn(outputs, generator=generator),
        }
        for _ in range(2)
    ]
    sampler = fc.Uniform(-0.5, 1.5, per=per, bits=bits) if outputs % 2 else fc.Bernoulli(per=per, bits=bits)
    mix = fc.Mixture(*thetas, sampler, seed=3).to(torch.device(DEVICE))
    index = mix.index_tensor([0, 7])
    tables, rules, draw = mix.law_arguments
    x = torch.randn(2, samples, inputs, generator=generator).to(DEVICE)
    x = x if own else x[0]
    parts = {n: (*mix.values(f"m.{n}"), mix.units[f"m.{n}"].numbers) for n in ("weight", "bias")}
    values = {
        n: reference(index, a, others, tables, draw, unit, torch.float32).double()
        for n, (a, others, unit) in parts.items()
    }
    for biased in (True, False):
        bias = parts["bias"] if biased else None
        found = kernels().mixed_linear(x, index, parts["weight"], bias, tables, rules, draw)
        expected = (x.double() if own else x.double()[None]) @ values["weight"].mT
        expected = expected + values["bias"][:, None] if biased else expected
        assert found.shape == (2, samples, outputs)
        # float32 sums of so many products
        limit = 2.0**-23 * inputs * float(x.abs().max() * values["weight"].abs().max() + 3)
        assert float((found.double() - expected).abs().max()) <= limit


def test_nothing_to_do():
    mix = mixture((4, 6), fc.Uniform())
    a, others = mix.values("m.w")
    unit = mix.units["m.w"].numbers
    none = mix.index_tensor([])
    assert kernels().mix(none, a, others, *mix.law_arguments, unit, torch.float32).shape == (0, 4, 6)
    x = torch.randn(0, 6, device=DEVICE)
    one = mix.index_tensor([1])
    assert kernels().mixed_linear(x, one, (a, others, unit), None, *mix.law_arguments).shape == (1, 0, 4)


def test_kernels_compile_for_gpus_with_matrix_instructions_and_within_their_budget():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernels.py")],
        capture_output=True,
        text=True,
        # a process of its own, since the interpreter is chosen when the kernels are imported
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, numbers in json.loads(done.stdout).items():
        if name.startswith("linear"):
            assert numbers["matrix"] == ["wgmma.mma_async" if " 90 " in name else "mma.sync"], name
        assert numbers["registers"] <= 255, name
        assert numbers["shared"] <= (164 if " 80 " in name else 227) << 10, name
        # spills, recorded on Triton 3.9: none on sm_90 and in mix, up to 160 bytes on sm_80
        assert numbers["stack"] <= (192 if "linear 80" in name else 0), (name, numbers)
