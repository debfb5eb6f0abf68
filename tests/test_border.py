"""The border to the compiled engine: it runs nothing that would leave the memory that it was given."""

import random

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb.backends.native import machine
from fastcomb.kernels import native
from fastcomb.models import MLP, Tiny10


class Recorder:
    """The engine, with what it was handed kept."""

    def __init__(self, *arguments):
        self.engine = native.extension().Engine(*arguments)
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, arguments))
            return getattr(self.engine, name)(*arguments)

        return call


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.n, self.a, self.o = (
            nn.Embedding(11, 8),
            nn.LayerNorm(8),
            nn.Linear(8, 24),
            nn.Linear(8, 3),
        )

    def forward(self, ids):
        q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in self.a(self.n(self.e(ids))).chunk(3, 2))
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(h.transpose(1, 2).flatten(2).softmax(-1).mean(1))


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.d = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        self.b, self.g, self.o = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.b(self.c(x)) + 1) * 2
        h = nn.functional.max_pool2d(self.g(self.d(h)), 2)
        return self.o(torch.cat([h, -h], 2).mean((2, 3)))


NETWORKS = {
    "mlp": (lambda: MLP((7, 63, 3, 5)), torch.randn(9, 7)),
    "convolutions": (Images, torch.randn(5, 3, 9, 9)),
    "tiny10": (Tiny10, torch.randn(2, 3, 32, 32)),
    "tokens": (Tokens, torch.randint(11, (6, 5))),
}


@pytest.fixture
def recorded(monkeypatch):
    """Engines of a sweep with all that they were handed, alive while the test runs."""
    engines, sweeps = [], []

    class Native:
        def __getattr__(self, name):
            return getattr(native.extension(), name)

        @staticmethod
        def Engine(*arguments):
            engines.append(Recorder(*arguments))
            return engines[-1]

    altered = Native()

    class Compiled:
        def __getattr__(self, name):
            return (lambda: altered) if name == "extension" else getattr(native, name)

    def run(name):
        monkeypatch.setattr(machine, "native", Compiled())
        make, x = NETWORKS[name]
        torch.manual_seed(0)
        a, b = make().eval(), make().eval()
        y = torch.zeros(len(x), dtype=torch.int64)
        normed = {"batch_norm": "recompute", "calibration": x} if name in ("convolutions", "tiny10") else {}
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, **normed)
        assert sweep.backend == "native"
        sweeps.append(sweep)
        monkeypatch.undo()
        return engines

    return run


class Call:
    """A run as it was recorded, on tensors of its own."""

    def __init__(
        self, index, number, inputs, sizes, step, statistics, floats, sums, outputs, bytes_, threads
    ):
        self.number, self.floats = number, floats
        count = len(index)
        self.sizes = [size * (count if step and i == 0 else 1) for i, size in enumerate(sizes)]
        self.tensors = [torch.zeros(size, dtype=torch.uint8) for size in self.sizes]
        self.statistics = torch.ones(count * floats) if statistics else None
        self.sums = torch.empty(count, 2, dtype=torch.float64) if sums else None
        self.outputs = torch.empty(count * bytes_, dtype=torch.uint8) if outputs else None
        self.rest = index, sizes, step, bytes_, threads

    def __call__(self, engine, *, number=None, sizes=None, floats=None, bytes_=None):
        index, own_sizes, step, own_bytes, threads = self.rest
        address = [0 if t is None else t.data_ptr() for t in (self.statistics, self.sums, self.outputs)]
        engine.run(
            index,
            self.number if number is None else number,
            [t.data_ptr() for t in self.tensors],
            own_sizes if sizes is None else sizes,
            step,
            address[0],
            self.floats if floats is None else floats,
            address[1],
            address[2],
            own_bytes if bytes_ is None else bytes_,
            threads,
        )


def runs_of(recorder):
    return [Call(*arguments) for name, arguments in recorder.calls if name == "run"]


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_that_are_too_small_are_refused(recorded, name):
    refused = 0
    for recorder in recorded(name):
        for call in runs_of(recorder):
            call(recorder.engine)
            sizes = call.rest[1]
            for i, size in enumerate(sizes):
                with pytest.raises(ValueError, match="an input of"):
                    call(recorder.engine, sizes=[*sizes[:i], size - 8, *sizes[i + 1 :]])
                refused += 1
            with pytest.raises(ValueError, match="an input of"):
                call(recorder.engine, sizes=[])
            with pytest.raises(ValueError, match="a pass that was not added"):
                call(recorder.engine, number=10**6)
            if call.outputs is not None:
                with pytest.raises(ValueError, match="an output of"):
                    call(recorder.engine, bytes_=call.rest[3] - 4)
            if call.floats:
                with pytest.raises(ValueError, match="statistics of"):
                    call(recorder.engine, floats=call.floats - 1)
    assert refused


def altered(generator, instructions):
    """The same instructions with one number, address or operand of one of them changed."""
    changed = [[op, storage, list(places), list(numbers), list(factors)]
               for op, storage, places, numbers, factors in instructions]  # fmt: skip
    one = generator.choice(changed)
    what = generator.random()
    if what < 0.6 and one[3]:
        at = generator.randrange(len(one[3]))
        one[3][at] = generator.choice([one[3][at] + generator.randint(-9, 9), 2 * one[3][at], -1, 0, 1 << 62])
    elif what < 0.9 and one[2]:
        at = generator.randrange(len(one[2]))
        space, offset, step = one[2][at]
        one[2][at] = generator.choice(
            [(space, offset + 64 * generator.randint(-40, 40), step), (space, offset, 2 * step + 64),
             (generator.randint(0, 8), offset, step), (space, 1 << 61, step)]
        )  # fmt: skip
    elif what < 0.95:
        one[3] = one[3][:-1]
    else:
        one[0] = generator.randint(-1, 30)
    return [(op, storage, places, numbers, factors) for op, storage, places, numbers, factors in changed]


@pytest.mark.parametrize("name", NETWORKS)
def test_altered_instructions_are_refused_or_stay_inside(recorded, name):
    """Run it under the sanitizers (make sanitize), which see every access outside."""
    generator = random.Random(0)
    refused = ran = 0
    for recorder in recorded(name):
        added = [arguments for call, arguments in recorder.calls if call == "add_pass"]
        for call in runs_of(recorder)[:2]:
            samples, block, whole, last, *others = added[call.number]
            for _ in range(60):
                same = generator.random() < 0.5 and len(whole) == len(last)
                new = altered(generator, whole)
                try:
                    changed = recorder.engine.add_pass(samples, block, new, new if same else last, *others)
                    if any(max(numbers, default=0) > 1 << 20 for _, _, _, numbers, _ in new):
                        continue  # safe, but it would take for ever
                    call(recorder.engine, number=changed)
                    ran += 1
                except ValueError:
                    refused += 1
    assert refused > 20
    assert ran > 5


def test_parameters_that_are_too_small_are_refused(recorded):
    for recorder in recorded("mlp"):
        for call, arguments in recorder.calls:
            if call == "add":
                a, b, elements, outputs, *rest = arguments
                with pytest.raises(ValueError, match="fewer entries than its rows"):
                    recorder.engine.add(a, b, elements - 1, outputs, *rest)
                with pytest.raises(ValueError, match="without values"):
                    recorder.engine.add(0, b, elements, outputs, *rest)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 4).t(), torch.zeros(4, 4)[:, :2], torch.zeros(4, 2).double(), torch.zeros(4, 3)],
    ids=["transposed", "sliced", "double", "wide"],
)
def test_addresses_are_those_of_what_is_expected(tensor):
    with pytest.raises(ValueError, match="is needed"):
        native.address(tensor, torch.float32, (4, 2))
    plain = torch.zeros(4, 2)
    assert native.address(plain, torch.float32, (4, 2)) == plain.data_ptr()
