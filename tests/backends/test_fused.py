"""Kernels in CUDA C++: their code on the host against the reference, and what was compiled for devices.

On the host a warp's 32 lanes run in turn through the same functions: which thread generates which weight,
where it lies, what each lane multiplies, and how rows are summed. Only the instructions are emulated.
"""

import copy
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn

import fastcomb as fc
from csrc import objects
from fastcomb.backends import Scores
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.criterion import Criterion
from fastcomb.backends.gpu import Fused
from fastcomb.kernels import cuda
from fastcomb.mixing.ops import reference
from fastcomb.models import MLP
from fastcomb.sweep.measures import accuracy_of, loss_of
from tests.backends.test_gpu import DEVICE, agree, both, vectors
from tests.networks import randomised
from tests.quick import mostly_slow

MODULE = cuda.kernels(torch.device(DEVICE))
LAWS = {
    "uniform": fc.Uniform,
    "vicinity": lambda **options: fc.Uniform(-1, 2, **options),
    "bernoulli": lambda **options: fc.Bernoulli(0.3, **options),
    "constant": lambda **options: fc.Constant(0.25, **options),
    "law": lambda **options: fc.Law(scipy.stats.truncnorm(-1, 1, 0.5, 0.3), **options),
}
INDICES = [0, 3, 2**40 + 1, 2**64 - 1, *range(9)]  # more than are mixed together


def fused(make, x, y, **options):
    """As ``agree``, for the whole network in one kernel."""
    found, expected = both(make, x, y, backend="cuda", **options)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, expected.accuracy, atol=1.01 / len(x), equal_nan=True)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("per", ["element", "neuron", "layer", "model"])
@pytest.mark.parametrize("bits", mostly_slow([16, 32], 0))
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.bfloat16, torch.float16))],
)
def test_mix_agrees_bit_for_bit(law, per, bits, dtype):
    if bits == 32 and law == "law":
        pytest.skip("a table of eight million entries, which takes scipy five seconds")
    generator = torch.Generator().manual_seed(1)
    for shape in ((1,), (3,), (63,), (100, 5), (7, 500), (5, 3, 3, 3)):
        thetas = [{"m.w": torch.randn(shape, generator=generator)} for _ in range(2)]
        mix = fc.Mixture(*thetas, LAWS[law](per=per, bits=bits), seed=(9 << 32) | 5)
        mixed, laws = mix.mixed("m.w"), mix.law_arguments
        index = mix.index_tensor(INDICES)
        expected = reference(index, mixed.a, mixed.others, laws.tables, laws.stream_key, mixed.unit, dtype)
        moved = mix.to(torch.device(DEVICE))
        given = moved.index_tensor(INDICES), moved.mixed("m.w"), moved.law_arguments
        assert torch.equal(cuda.mix(MODULE, *given, dtype).cpu(), expected), shape


def test_mix_between_several_networks():
    thetas = [{"w": torch.randn(12, 11, generator=torch.Generator().manual_seed(k))} for k in range(5)]
    mix = fc.Mixture(thetas[0], thetas[1:], fc.Dirichlet(0.7)).to(torch.device(DEVICE))
    index = mix.index_tensor(range(20))
    found = cuda.mix(MODULE, index, mix.mixed("w"), mix.law_arguments, torch.float32)
    mixed, laws = mix.mixed("w"), mix.law_arguments
    assert torch.equal(
        found,
        reference(index, mixed.a, mixed.others, laws.tables, laws.stream_key, mixed.unit, torch.float32),
    )
    assert cuda.mix(MODULE, index[:0], mixed, laws, torch.float32).shape == (0, 12, 11)


def test_rounding_to_halves():
    special = torch.tensor([0.0, -0.0, 1e-8, 6e-8, 3e-5, 6.1e-5, 65504, 65519, 65520, 1e6, -1e6, 1e-40, 3e38])
    values = torch.cat([special, torch.randn(4000, generator=torch.Generator().manual_seed(2)).exp2() * 1e-4])
    mix = fc.Mixture({"w": values}, {"w": values}, fc.Constant(0.0)).to(torch.device(DEVICE))
    for dtype in (torch.float16, torch.bfloat16):
        found = cuda.mix(MODULE, mix.index_tensor([0]), mix.mixed("w"), mix.law_arguments, dtype)
        assert torch.equal(found[0].cpu().view(torch.int16), values.to(dtype).view(torch.int16))


@pytest.mark.parametrize("per", mostly_slow(["element", "neuron", "layer", "model"], 0, 1))
def test_mlp_at_every_granularity(per):
    fused(lambda: MLP((7, 63, 3, 5)), *vectors(100, 7), sampler=fc.Bernoulli(0.4, per=per), n=5)


@pytest.mark.parametrize(
    "widths",
    mostly_slow(
        [(1, 1), (3, 5), (64, 32, 10), (100, 128, 5), (17, 64, 64, 128), (500, 9, 5), (8, *[16] * 11, 5)],
        *(0, 1, 5),
    ),
)
@pytest.mark.parametrize("samples", [pytest.param(1, marks=pytest.mark.slow), 100])
def test_widths(widths, samples):
    fused(lambda: MLP(widths), *vectors(samples, widths[0], widths[-1]))


@pytest.mark.parametrize("samples", mostly_slow([15, 16, 17, 255, 500], 0, 2, 4))
def test_any_number_of_samples(samples):
    fused(lambda: MLP((7, 20, 5)), *vectors(samples, 7))


@pytest.mark.parametrize("bits", [16, 32])
def test_laws_and_bits(bits):
    fused(lambda: MLP((9, 20, 5)), *vectors(40, 9), sampler=fc.Uniform(-0.5, 1.5, bits=bits))
    fused(lambda: MLP((9, 20, 5)), *vectors(40, 9), sampler=fc.Normal())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("widths", [(9, 30, 5), (100, 100, 128, 7)])
def test_half_precision(dtype, widths):
    x, y = vectors(50, widths[0], widths[-1])
    a, b = (randomised(lambda: MLP(widths), seed) for seed in (1, 2))
    mixture = fc.Mixture(a, b, fc.Uniform()).to(torch.device(DEVICE))
    # without the comparison with Triton's outputs, of which the interpreter's bfloat16 are wrong
    model = copy.deepcopy(a).to(DEVICE)
    kernel = Fused(mixture, model, x[:2], dtype=dtype, normalisation=Normalisation())
    loss = Criterion("cross_entropy", dimension=1, ignore_index=-100)
    scores = Scores((loss_of(loss), accuracy_of(loss)), loss, classes=True)
    sums = kernel.summed_metrics(kernel.prepare(mixture.index_tensor(range(4))), x, y, scores)
    options = {"data": (x, y), "n": 4, "device": DEVICE, "backend": "torch_reference"}
    exact = fc.evaluate(a, b, fc.Uniform(), dtype=torch.float64, **options)
    rtol = 3e-3 if dtype == torch.float16 else 3e-2
    np.testing.assert_allclose(sums[0].cpu() / 50, exact.loss, rtol=rtol)


def test_single_precision_against_double():
    nets = [randomised(lambda: MLP((100, 100, 128, 7)), seed) for seed in (1, 2)]
    options = {"data": vectors(50, 100, 7), "n": 4, "device": DEVICE}
    found = fc.evaluate(*nets, fc.Uniform(), backend="cuda", **options)
    exact = fc.evaluate(*nets, fc.Uniform(), backend="torch_reference", dtype=torch.float64, **options)
    np.testing.assert_allclose(found.loss, exact.loss, rtol=1e-5)


class Residual(nn.Module):
    """Norms of both kinds, two additions, an activation after one."""

    def __init__(self, wide):
        super().__init__()
        self.first, self.norm = nn.Linear(9, 20), nn.LayerNorm(20)
        self.up, self.batch, self.down = nn.Linear(20, wide), nn.BatchNorm1d(wide), nn.Linear(wide, 20)
        self.again = nn.Linear(20, 20, bias=False)
        self.plain = nn.LayerNorm(20, elementwise_affine=False)
        self.last = nn.Linear(20, 5)

    def forward(self, x):
        x = F.silu(self.norm(self.first(x)))
        x = x + self.down(F.gelu(self.batch(self.up(x))))
        x = F.relu(self.plain(self.again(x)) + x)
        return self.last(x)


@pytest.mark.parametrize("choice", mostly_slow(["a", "lerp", "recompute"], 1))
def test_norms_and_additions(choice):
    calibration = vectors(20, 9)[0] if choice == "recompute" else None
    fused(lambda: Residual(30), *vectors(40, 9), batch_norm=choice, calibration=calibration, n=4)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU()])
def test_activations_and_a_flattened_input(activation):
    x, y = vectors(30, 12)
    fused(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Dropout(), activation, nn.Linear(9, 5)),
        x.view(30, 3, 2, 2),
        y,
    )


def certain(seed):
    """Log-probabilities that are the same for all samples: the only ones that a linear layer ends in."""
    model = randomised(lambda: MLP((7, 9, 5)), seed)
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.log_softmax(torch.linspace(-1, 1, 5), 0))
    return model


def test_losses():
    x, y = vectors(30, 7)
    targets = torch.randn(30, 5, generator=torch.Generator().manual_seed(6))
    fused(lambda: MLP((7, 9, 5)), x, targets, loss="mse")
    nets = [certain(seed) for seed in (1, 2)]
    options = {"data": (x, y), "n": 3, "loss": "nll", "device": DEVICE}
    one, other = (
        fc.evaluate(*nets, fc.Uniform(), backend=backend, **options)
        for backend in ("cuda", "torch_reference")
    )
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
    fused(lambda: MLP((7, 9, 5)), x, y, loss=lambda out, y: F.cross_entropy(out, y, reduction="none"))


def test_between_several_networks():
    nets = [randomised(lambda: MLP((7, 20, 5)), seed) for seed in range(4)]
    sweeps = [
        fc.evaluate(nets[0], nets[1:], fc.Dirichlet(), data=vectors(40, 7), n=4, backend=name, device=DEVICE)
        for name in ("cuda", "torch_reference")
    ]
    np.testing.assert_allclose(sweeps[0].loss, sweeps[1].loss, rtol=1e-5)


def test_results_do_not_depend_on_how_a_range_is_divided():
    a, b = (randomised(lambda: MLP((7, 20, 5)), seed) for seed in (1, 2))

    def sweep(start, n):
        options = {"data": vectors(30, 7), "backend": "cuda", "device": DEVICE}
        return fc.evaluate(a, b, fc.Uniform(), start=start, n=n, **options).loss

    whole = sweep(2**64 - 40, 40)
    assert np.array_equal(np.concatenate([sweep(2**64 - 40, 13), sweep(2**64 - 27, 27)]), whole)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(7, 5), nn.Linear(7, 5)

    def forward(self, x):
        return self.one(x) + self.two(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MLP((7, 200, 5)), "more than 128 outputs"),
        (lambda: MLP((7, *[6] * 12, 5)), "more than 12 layers"),
        (lambda: MLP((1000, 128, 5)), "bytes of weights"),
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.Tanh()), "the operation tanh"),
        (Branches, "does not follow the last"),
    ],
)
def test_other_networks(make, reason):
    nets = [randomised(make, seed) for seed in (1, 2)]
    width = next(nets[0].parameters()).shape[1]
    with pytest.raises(ValueError, match=f"backend='cuda' cannot run .*{reason}.* in one kernel"):
        fc.evaluate(*nets, fc.Uniform(), data=vectors(9, width), n=2, backend="cuda", device=DEVICE)


def test_the_layerwise_backend_still_gives_outputs():
    agree(
        lambda: MLP((7, 9, 5)), *vectors(20, 7), backend="cuda", metrics={"top": lambda out, y: out.amax(1)}
    )


#: Registers of a thread, bytes of its spills, by kernel: 168 registers let two blocks of 192 threads share a
#: multiprocessor.
BUDGETS = {"network 8": (168, 0), "network 16": (255, 0), "mix": (96, 0)}
PRODUCTS = {"Float32": "HMMA.1688.F32.TF32", "Bfloat16": "HMMA.16816.F32.BF16", "Float16": "HMMA.16816.F32"}


def tool(name):
    """One of the toolkit's programs, from the toolkit or from Triton's wheel."""
    triton = pytest.importorskip("triton")
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    found = shutil.which(name) or (str(bundled) if bundled.exists() else None)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def said(*command, cwd=None):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """CompiledProgram code of the objects that the extension is linked from, by architecture: files."""
    nvcc = objects.nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    folder = tmp_path_factory.mktemp("cubins")
    (objects.ROOT / "build").mkdir(exist_ok=True)
    with FileLock(objects.ROOT / "build" / "nvcc.lock"):  # of several processes one compiles
        made = objects.cuda(nvcc)
    for path in made:
        said(tool("cuobjdump"), "-xelf", "all", path, cwd=folder)
    return {arch: sorted(folder.glob(f"*{arch}.cubin")) for arch in ("sm_80", "sm_90a")}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_kernels_keep_within_their_budgets(compiled, arch):
    seen = set()
    for file in compiled[arch]:
        told = said(tool("cuobjdump"), "-res-usage", file)
        for name, numbers in re.findall(r"Function (\S+):\n(.*)", told):
            widths = re.search(r"ELi(\d+)ELi", name)
            kernel = f"network {widths[1]}" if widths else "mix"
            registers, stack = (int(re.search(rf"{k}:(\d+)", numbers)[1]) for k in ("REG", "STACK"))
            assert registers <= BUDGETS[kernel][0], name
            assert stack <= BUDGETS[kernel][1], name
            seen.add(name)
    assert len(seen) == 12  # three networks and mix, for three compute types


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_matrix_instructions_and_wide_accesses_are_there(compiled, arch):
    seen = 0
    for file in compiled[arch]:
        for part in said(tool("nvdisasm"), "-c", file).split(".section\t.text.")[1:]:
            name = part.split(",")[0]
            number = next(key for key in PRODUCTS if key in name)
            if "network" in name:
                assert PRODUCTS[number] in part, name
                assert "LDS.64" in part, name
            else:
                assert "STG.E.128" in part, name
                assert "LDG.E.128" in part, name
            seen += 1
    assert seen == 12
