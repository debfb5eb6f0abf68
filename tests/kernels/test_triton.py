"""The Triton kernels: in the interpreter (on a GPU: compiled) against the reference, and compiled for GPUs.

Coefficients must agree bit for bit. The interpreter's fused multiply-add rounds twice, so mixed weights may
differ there by one rounding of the product, 2⁻²⁴ of its size, and one of the sum.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import scipy.stats
import torch
import torch.nn.functional as F

import fastcomb as fc
from fastcomb.kernels.operands import Mixed
from fastcomb.mixing.ops import reference

pytest.importorskip("triton")

from fastcomb.kernels.triton import kernels
from tests.quick import mostly_slow

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
    """A parameter by the kernel, and by the reference on the CPU; ``ends`` replaces the networks' values."""
    index = mix.index_tensor(INDICES)
    a, others, unit = mix.mixed(name)
    a, others = (a, others) if ends is None else ends
    tables, _, draw = mix.law_arguments
    found = kernels.mix(index, Mixed(a, others, unit), mix.law_arguments, dtype)
    expected = reference(index.cpu(), a.cpu(), others.cpu(), tables.cpu(), draw, unit, dtype)
    return found.cpu(), expected


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("per", mostly_slow(GRANULARITIES, 0, 2))
@pytest.mark.parametrize("bits", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_coefficients_agree_bit_for_bit(law, per, bits):
    if bits == 32 and law == "law":
        pytest.skip("a table like the normal law's, which takes scipy five seconds")
    for shape in ((0,), (1,), (3,), (63,), (100, 5), (7, 500), (5, 3, 3, 3)):
        mix = mixture(shape, LAWS[law](per=per, bits=bits))
        a, others = mix.values("m.w")
        # between 0 and 1 a mixed weight is the coefficient itself
        found, expected = both(mix, ends=(torch.zeros_like(a), torch.ones_like(others)))
        assert torch.equal(found, expected), shape


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**64 - 1])
def test_any_seed(seed):
    mix = mixture((100,), fc.Uniform(), seed=seed)
    a, others = mix.values("m.w")
    found, expected = both(mix, ends=(torch.zeros_like(a), torch.ones_like(others)))
    assert torch.equal(found, expected)


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
    a, others = (tensor.cpu() for tensor in mix.values("m.w"))
    assert ((found == a) | (found == others[0])).all()


def test_channels_last():
    mix = mixture((5, 6, 3, 2), fc.Uniform())
    weight = mix.mixed("m.w")
    index = mix.index_tensor(range(11))
    arguments = index, weight, mix.law_arguments, torch.float32
    assert torch.equal(kernels.mix(*arguments, channels_last=True), kernels.mix(*arguments).movedim(2, -1))


def test_several_networks():
    mix = mixture((12, 11), fc.Dirichlet(0.7), networks=4)
    found, expected = both(mix)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    a, others = mix.values("m.w")
    step = torch.zeros_like(others)
    step[1] = 1  # from 0 to 1 in the second step, back in the third: a product of coefficients
    found, expected = both(mix, ends=(torch.zeros_like(a), step))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def layer(outputs, inner, sampler, generator):
    """Layers with weight [outputs, *inner] and bias, and their values in combinations 0, 7 and 8."""
    thetas = [
        {
            "m.weight": torch.randn(outputs, *inner, generator=generator),
            "m.bias": torch.randn(outputs, generator=generator),
        }
        for _ in range(2)
    ]
    mix = fc.Mixture(*thetas, sampler, seed=3).to(torch.device(DEVICE))
    index = mix.index_tensor([0, 7, 8])
    tables, _, draw = mix.law_arguments
    parts = [mix.mixed(f"m.{n}") for n in ("weight", "bias")]
    values = [reference(index, p.a, p.others, tables, draw, p.unit, torch.float32).double() for p in parts]
    return mix.law_arguments, index, parts, values


def close(found, expected, size, products):
    """float32 sums of so many products of about this size."""
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) <= 2.0**-23 * (products + 4) * size


@pytest.mark.parametrize("per", mostly_slow(GRANULARITIES, 0, 1))
@pytest.mark.parametrize("bits", [16, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("own", mostly_slow([False, True], 1))
@pytest.mark.parametrize(
    "sizes",
    [
        (8, 5, 3),
        (100, 17, 5),
        (40, 70, 300),
        (1, 1, 1),
        *(pytest.param(s, marks=pytest.mark.slow) for s in ((63, 3, 100), (16, 16, 1), (40, 70, 256))),
    ],
)
def test_linear(sizes, per, bits, own):
    inputs, outputs, samples = sizes
    generator = torch.Generator().manual_seed(2)
    sampler = fc.Uniform(-0.5, 1.5, per=per, bits=bits) if outputs % 2 else fc.Bernoulli(per=per, bits=bits)
    laws, index, (weight, bias), (w, b) = layer(outputs, (inputs,), sampler, generator)
    x = torch.randn(3, samples, inputs, generator=generator).to(DEVICE)
    x = x if own else x[0]
    size = float(x.abs().max() * w.abs().max() + 3)
    for count in (3, 1):  # in pairs, the last one alone
        for biased in (True, False):
            given = x[:count] if own else x
            args = index[:count], weight, bias if biased else None, laws, kernels.Epilogue()
            expected = (given.double() if own else x.double()[None]) @ w[:count].mT
            expected = expected + b[:count, None] if biased else expected
            close(kernels.linear(given, *args), expected, size, inputs)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize("samples", [20, 290])
def test_epilogues_of_linear_layers(activation, samples):
    generator = torch.Generator().manual_seed(4)
    laws, index, (weight, bias), (w, b) = layer(19, (12,), fc.Uniform(), generator)
    x = torch.randn(samples, 12, generator=generator).to(DEVICE)
    scale, shift = (torch.randn(3, 19, generator=generator).to(DEVICE) for _ in range(2))
    residual = torch.randn(3, samples, 19, generator=generator).to(DEVICE)
    epilogue = kernels.Epilogue(scale, shift, residual, activation)
    # scale and shift come after the bias
    expected = ((x.double() @ w.mT) + b[:, None]) * scale[:, None].double() + shift[:, None] + residual
    found = kernels.linear(x, index, weight, bias, laws, epilogue)
    size = float(x.abs().max() * w.abs().max() * 3 + 9)
    # the tolerance of torch's own approximation in gelu tanh
    close(found, ACTIVATIONS[activation](expected), size, 12)


ACTIVATIONS = {
    "": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}

#: samples, inputs, height, width, outputs, kernel, stride, padding, dilation
CONVOLUTIONS = [
    (2, 3, 8, 7, 5, (3, 3), (1, 1), (1, 1), (1, 1)),
    (2, 16, 7, 6, 20, (3, 3), (2, 1), (1, 1), (1, 1)),
    (3, 5, 4, 4, 7, (1, 1), (1, 1), (0, 0), (1, 1)),
    (1, 20, 9, 9, 33, (3, 2), (2, 1), (1, 0), (1, 2)),
    (2, 40, 5, 5, 130, (1, 1), (2, 2), (0, 0), (1, 1)),
    (63, 1, 3, 3, 1, (3, 3), (1, 1), (2, 2), (1, 1)),
]


@pytest.mark.parametrize("sizes", CONVOLUTIONS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("per", mostly_slow(["element", "neuron"], 0))
def test_conv2d(sizes, own, per):
    samples, inputs, height, width, outputs, kernel, *geometry = sizes
    generator = torch.Generator().manual_seed(5)
    laws, index, (weight, bias), (w, b) = layer(outputs, (inputs, *kernel), fc.Uniform(per=per), generator)
    x = torch.randn(3, samples, inputs, height, width, generator=generator).to(DEVICE)
    x = x if own else x[0]
    expected = torch.stack([F.conv2d((x[k] if own else x).double(), w[k], b[k], *geometry) for k in range(3)])
    found = kernels.conv2d(x, index, weight, bias, laws, kernels.Geometry(kernel, *geometry))
    close(found, expected, float(x.abs().max() * w.abs().max() + 3), inputs * kernel[0] * kernel[1])


def test_half_precision_layers():
    generator = torch.Generator().manual_seed(6)
    laws, index, (weight, bias), (w, b) = layer(20, (24, 3, 3), fc.Uniform(), generator)
    x = torch.randn(2, 24, 5, 5, generator=generator).half().to(DEVICE)
    found = kernels.conv2d(x, index, weight, bias, laws, kernels.Geometry((3, 3)))
    assert found.dtype == torch.float16
    w, b = w.half().double(), b.half().double()
    expected = torch.stack([F.conv2d(x.double(), w[k], b[k]) for k in range(3)])
    # products of halves are exact in float32, so the result is off by its own rounding
    torch.testing.assert_close(found.double(), expected, rtol=2.0**-11, atol=1e-4)
    laws, index, (weight, bias), (w, b) = layer(20, (24,), fc.Uniform(), generator)
    for samples in (30, 300):
        x = torch.randn(samples, 24, generator=generator).half().to(DEVICE)
        found = kernels.linear(x, index, weight, bias, laws, kernels.Epilogue(dtype=torch.float32))
        expected = x.double() @ w.half().double().mT + b.half().double()[:, None]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 70, 11), (1, 1, 1), (2, 5, 1500), (4, 300, 3), (1, 100, 500)])
def test_scores(shape):
    generator = torch.Generator().manual_seed(7)
    outputs = torch.randn(shape, generator=generator).to(DEVICE) * 5
    y = torch.randint(0, shape[2], shape[1:2], generator=generator).to(DEVICE)
    for name in ("cross_entropy", "nll"):
        loss = getattr(F, name if name == "cross_entropy" else "nll_loss")
        expected = torch.stack([loss(one.double(), y, reduction="sum") for one in outputs])
        found = kernels.score(outputs, y, name)
        torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-5)
        assert found[1].tolist() == (outputs.argmax(2) == y).sum(1).tolist()
    targets = torch.randn(shape[1:], generator=generator).to(DEVICE)
    expected = ((outputs.double() - targets.double()) ** 2).mean(2).sum(1)
    torch.testing.assert_close(kernels.score(outputs, targets, "mse")[0], expected, rtol=1e-6, atol=0)


def test_scores_count_as_argmax_does():
    nan, inf = float("nan"), float("inf")
    rows = [[1, 1, 0], [nan, 5, 1], [5, nan, nan], [inf, 1, inf], [-inf, -inf, -inf], [0, 2, 2]]
    outputs = torch.tensor([rows], dtype=torch.float32, device=DEVICE)
    for label in range(3):
        y = torch.full((len(rows),), label, device=DEVICE)
        found = kernels.score(outputs, y, "nll")
        assert found[1].tolist() == [float((torch.tensor(rows).argmax(1) == label).sum())]
        spoilt = kernels.score(outputs[:, 1:2], y[:1], "cross_entropy")
        assert spoilt[0].isnan().all()


def test_nothing_to_do():
    mix = mixture((4, 6), fc.Uniform())
    weight = mix.mixed("m.w")
    none = mix.index_tensor([])
    assert kernels.mix(none, weight, mix.law_arguments, torch.float32).shape == (0, 4, 6)
    x = torch.randn(0, 6, device=DEVICE)
    one = mix.index_tensor([1])
    assert kernels.linear(x, one, weight, None, mix.law_arguments, kernels.Epilogue()).shape == (1, 0, 4)


#: Registers and bytes of spills that a thread may need (compiled by Triton 3.9: a little below), by the first
#: word of a kernel's name. 128 registers let 16 warps share a multiprocessor, 168 let 12, 255 let 8.
BUDGETS = {
    "sm_80": {
        "mix": (40, 0),
        "linear": (255, 32),
        "gemm": (248, 0),
        "conv": (224, 0),
        "score": (160, 8),
    },
    "sm_90": {
        "mix": (40, 0),
        "linear": (152, 0),
        "gemm": (192, 0),
        "conv": (168, 0),
        "score": (160, 8),
    },
    "gfx942": {
        "mix": (40, 0),
        "linear": (168, 0),
        "gemm": (192, 0),
        "conv": (168, 0),
        "score": (160, 0),
    },
}
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}
MATRIX = {"sm_80": ["HMMA"], "sm_90": ["HGMMA"], "gfx942": ["v_mfma"]}


@pytest.mark.slow
def test_kernels_compile_for_gpus_with_matrix_instructions_and_within_their_budgets():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernels.py")],
        capture_output=True,
        text=True,
        # a process of its own, since the interpreter is chosen when the kernels are imported
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, numbers in json.loads(done.stdout).items():
        target, kernel, *_ = name.split()
        products = kernel in ("linear", "gemm", "conv")
        assert numbers["matrix"] == (MATRIX[target] if products else []), name
        assert numbers["shared"] <= SHARED[target], name
        if not version("triton").startswith("3.9."):
            continue  # another compiler
        registers, stack = BUDGETS[target][kernel]
        assert numbers["registers"] <= registers, (name, numbers)
        assert numbers["stack"] <= stack, (name, numbers)


def test_what_is_counted_in_32_bits_is_refused_beyond():
    """Tensors without memory: what is refused is refused before anything runs."""
    geometry = kernels.Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    x = torch.empty(1 << 20, 1 << 8, 1 << 4, 1, device="meta")
    with pytest.raises(ValueError, match=r"4,294,967,296 inputs of one combination"):
        kernels.implicit_gemm(
            x, torch.empty(1, 1, 1, 1, 1, device="meta"), geometry, kernels.Epilogue(), own=False
        )
    wide = torch.empty(1, 1 << 16, 1, 1, 1 << 15, device="meta")
    with pytest.raises(ValueError, match=r"2,147,483,648 weights of one combination"):
        kernels.implicit_gemm(
            torch.empty(1, 1, 1, 1 << 15, device="meta"), wide, geometry, kernels.Epilogue(), own=False
        )
    mix = mixture((2, 3), fc.Uniform())
    large = Mixed(
        torch.empty(1 << 31, device="meta"), torch.empty(1, 1 << 31, device="meta"), [0, 1 << 31, 0]
    )
    with pytest.raises(ValueError, match="2,147,483,648 entries"):
        kernels.mix(torch.tensor([0]), large, mix.law_arguments, torch.float32)
