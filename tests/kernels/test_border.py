"""The border to the compiled engine: it runs nothing that would leave the memory that it was given."""

import random

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb.backends import criterion
from fastcomb.backends.native import compiled, memory, pointwise
from fastcomb.kernels import cuda, native
from fastcomb.models import MLP, Tiny10
from fastcomb.sampling import rules
from fastcomb.utils.dtypes import dtype_name


class Recorder:
    """The engine, with what it was handed kept."""

    def __init__(self, **arguments):
        self.engine = native.extension().Engine(**arguments)
        self.calls = []

    def __getattr__(self, name):
        def call(**arguments):
            self.calls.append((name, arguments))
            return getattr(self.engine, name)(**arguments)

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
    "pixels": (lambda: nn.Conv2d(3, 4, 3), torch.randn(3, 3, 6, 5)),
    "probabilities": (lambda: nn.Sequential(nn.Linear(7, 12), nn.Unflatten(1, (3, 4))), torch.randn(9, 7)),
}


@pytest.fixture
def recorded(monkeypatch):
    """Engines of a sweep with all that they were handed, alive while the test runs."""
    engines, sweeps = [], []

    class Native:
        def __getattr__(self, name):
            return getattr(native.extension(), name)

        @staticmethod
        def Engine(**arguments):
            engines.append(Recorder(**arguments))
            return engines[-1]

    altered = Native()

    class Compiled:
        def __getattr__(self, name):
            return (lambda: altered) if name == "extension" else getattr(native, name)

    def run(name):
        monkeypatch.setattr(compiled, "native", Compiled())
        make, x = NETWORKS[name]
        torch.manual_seed(0)
        a, b = make().eval(), make().eval()
        output = a(x).detach()
        y = torch.zeros(output.shape[:1] + output.shape[2:], dtype=torch.int64)
        y = torch.ones_like(output) if name == "probabilities" else y
        normed = {"batch_norm": "recompute", "calibration": x} if name in ("convolutions", "tiny10") else {}
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, **normed)
        assert sweep.backend == "native"
        sweeps.append(sweep)
        monkeypatch.undo()
        return engines

    return run


def like(tensor):
    """A tensor of its own that looks the same to the border."""
    return torch.zeros_like(tensor) if tensor.dtype == torch.int64 else torch.ones_like(tensor)


class Call:
    """A run as it was recorded, on tensors of its own."""

    def __init__(self, arguments):
        self.arguments = {
            name: like(value) if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
        } | {"inputs": [like(tensor) for tensor in arguments["inputs"]]}

    def __call__(self, engine, **changed):
        engine.run(**{**self.arguments, **changed})


def runs_of(recorder):
    return [Call(arguments) for name, arguments in recorder.calls if name == "run"]


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_that_are_not_what_a_pass_takes_are_refused(recorded, name):
    refused = 0
    for recorder in recorded(name):
        for call in runs_of(recorder):
            call(recorder.engine)
            given = call.arguments
            inputs = given["inputs"]
            for i, tensor in enumerate(inputs):
                others = {
                    "an input of": tensor.flatten()[:-1].clone(),
                    "on meta where": tensor.to("meta"),
                    f"contiguous tensor of {'float32' if tensor.dtype == torch.int64 else 'int64'}": (
                        tensor.float() if tensor.dtype == torch.int64 else tensor.long()
                    ),
                    "a strided tensor": torch.stack([tensor, tensor], -1)[..., 0],
                }
                for message, other in others.items():
                    with pytest.raises(ValueError, match=message):
                        call(recorder.engine, inputs=[*inputs[:i], other, *inputs[i + 1 :]])
                    refused += 1
            with pytest.raises(ValueError, match="0 inputs for a pass that takes"):
                call(recorder.engine, inputs=[])
            with pytest.raises(ValueError, match="a pass that was not added"):
                call(recorder.engine, number=10**6)
            with pytest.raises(TypeError):
                recorder.engine.run(**{k: v for k, v in given.items() if k != "number"})
            with pytest.raises(TypeError):
                call(recorder.engine, samples=3)
            for what in ("sums", "outputs", "statistics"):
                tensor = given.get(what)
                if tensor is None:
                    continue
                with pytest.raises(ValueError, match=what):
                    call(recorder.engine, **{what: tensor.to(torch.float16)})
                if len(given["index"]) > 1:
                    with pytest.raises(ValueError, match=what):
                        call(recorder.engine, **{what: tensor[1:].contiguous()})
                if what != "sums":
                    with pytest.raises(ValueError, match=f"{what} of|an output of"):
                        call(recorder.engine, **{what: tensor.flatten(1)[:, :-1].contiguous()})
    assert refused


def altered(generator, instructions):
    """The same instructions with one field of one of them changed."""
    changed = [[op, dtype, dict(fields)] for op, dtype, fields in instructions]
    one = generator.choice(changed)
    fields = one[2]
    places = [n for n, v in fields.items() if isinstance(v, tuple) and v and isinstance(v[0], str)]
    numbers = [
        n for n, v in fields.items() if type(v) is int or (isinstance(v, (list, tuple)) and n not in places)
    ]
    what = generator.random()
    if what < 0.6 and numbers:
        name = generator.choice(numbers)

        def other(value):
            return generator.choice([value + generator.randint(-9, 9), 2 * value, -1, 0, 1 << 62])

        if type(fields[name]) is int:
            fields[name] = other(fields[name])
        elif fields[name]:
            values = list(fields[name])
            at = generator.randrange(len(values))
            values[at] = other(values[at])
            fields[name] = values
    elif what < 0.85 and places:
        name = generator.choice(places)
        space, which, offset, step = fields[name]
        spaces = native.extension().enumerations()["Space"]
        fields[name] = generator.choice(
            [
                (space, which, offset + 64 * generator.randint(-40, 40), step),
                (space, which, offset, 2 * step + 64), (generator.choice(spaces), 0, offset, step),
                (space, which, 1 << 61, step), ("input", 3, offset, step),
            ]
        )  # fmt: skip
    elif what < 0.9:
        del fields[generator.choice(list(fields))]
    elif what < 0.95:
        one[0] = generator.choice(list(native.extension().operations()))
    else:
        one[1] = "bfloat16" if one[1] == "float32" else "float32"
    return [tuple(one) for one in changed]


@pytest.mark.parametrize("name", NETWORKS)
def test_altered_instructions_are_refused_or_stay_inside(recorded, name):
    """Run it under the sanitizers (make sanitize), which see every access outside."""
    generator = random.Random(0)
    refused = ran = 0
    for recorder in recorded(name):
        added = [arguments for call, arguments in recorder.calls if call == "add_pass"]
        for call in runs_of(recorder)[:2]:
            given = added[call.arguments["number"]]
            for _ in range(60):
                same = generator.random() < 0.5 and len(given["whole"]) == len(given["last"])
                new = altered(generator, given["whole"])
                try:
                    number = recorder.engine.add_pass(
                        **{**given, "whole": new, "last": new if same else given["last"]}
                    )
                    if any(large(field) for _, _, fields in new for field in fields.values()):
                        continue  # safe, but it would take for ever
                    call(recorder.engine, number=number)
                    ran += 1
                except ValueError:
                    refused += 1
    assert refused > 20
    assert ran > 5


def large(field):
    numbers = field if isinstance(field, (list, tuple)) else [field]
    return any(isinstance(n, int) and n > 1 << 20 for n in numbers)


ZERO = ("zero", "float32", {"out": ("arena", 0, 0, 0), "count": 4})


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (("nothing", *ZERO[1:]), "'nothing' is no operation: matmul, "),
        ((ZERO[0], "float64", ZERO[2]), "'float64' is no Dtype: float32, "),
        ((ZERO[0], "int64", ZERO[2]), "zero: its dtype is neither"),
        ((*ZERO[:2], {"out": ZERO[2]["out"]}), "zero: the field count is missing"),
        ((*ZERO[:2], {"count": 4}), "zero: the field out is missing"),
        ((*ZERO[:2], ZERO[2] | {"more": 1}), "zero: no field more"),
        ((*ZERO[:2], ZERO[2] | {"count": "4"}), "zero: the field count has a value of another type"),
        ((*ZERO[:2], ZERO[2] | {"count": 1.5}), "zero: the field count has a value of another type"),
        ((*ZERO[:2], ZERO[2] | {"out": ("nowhere", 0, 0, 0)}), "'nowhere' is no Space: arena, "),
        ((*ZERO[:2], ZERO[2] | {"out": ("input", 99, 0, 0)}), "an input that there is not"),
        ((*ZERO[:2], ZERO[2] | {"out": None}), "zero: without out"),
        ((*ZERO[:2], ZERO[2] | {"out": 7}), "zero: the field out has a value of another type"),
        ((*ZERO[:2], ZERO[2] | {"count": 1 << 20}), "zero: an address beyond its memory"),
        (
            ("unary", "float32", {"x": ZERO[2]["out"], "out": ZERO[2]["out"], "function": "sine",
                                  "size": [1] * 6, "x_stride": [0] * 6, "out_stride": [0] * 6, "alpha": 0.0,
                                  "beta": 0.0}),
            "'sine' is no Function: identity, relu",
        ),
        (
            ("moments", "float32", {"x": ZERO[2]["out"], "size": [1] * 5, "x_stride": [0] * 6}),
            "moments: the field size takes 6 numbers",
        ),
    ],
)  # fmt: skip
def test_a_wrong_instruction_is_an_error_that_says_what_is_wrong(instruction, message):
    engine = native.extension().Engine(level="portable", seed=0, laws=native.laws(law_of(fc.Uniform())))
    rest = {
        "ends": [1],
        "last_ends": [1],
        "norms": [],
        "arena": 64,
        "lasting": 0,
        "inputs": [],
        "output": "float32",
    }
    with pytest.raises(ValueError, match=message):
        engine.add_pass(samples=1, block=1, whole=[instruction], last=[instruction], **rest)
    assert engine.add_pass(samples=1, block=1, whole=[ZERO], last=[ZERO], **rest) == 0


def law_of(sampler):
    return fc.Mixture({"w": torch.zeros(4, 2)}, {"w": torch.ones(4, 2)}, sampler).law_arguments


def test_parameters_that_are_too_small_are_refused(recorded):
    for recorder in recorded("mlp"):
        for call, arguments in recorder.calls:
            if call != "add":
                continue
            a, others = arguments["a"], arguments["others"]
            smaller = {"a": a.flatten()[1:].clone(), "others": others.flatten(1)[:, 1:].clone()}
            with pytest.raises(ValueError, match="fewer entries than its rows"):
                recorder.engine.add(**{**arguments, **smaller})
            with pytest.raises(ValueError, match="others: a contiguous tensor"):
                recorder.engine.add(**{**arguments, "a": smaller["a"]})
            with pytest.raises(ValueError, match="is no Form: packed, float"):
                recorder.engine.add(**{**arguments, "form": "loose"})
            with pytest.raises(ValueError, match="is no Sharing: element, row"):
                recorder.engine.add(**{**arguments, "sharing": "column"})


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 4).t(), torch.zeros(4, 4)[:, :2], torch.zeros(4, 2).double(), torch.zeros(4, 3)],
    ids=["transposed", "sliced", "double", "wide"],
)
@pytest.mark.parametrize("host", [False, True], ids=["cpu", "cuda on the host"])
def test_tensors_that_kernels_mix_are_those_that_are_expected(tensor, host):
    laws = law_of(fc.Uniform())
    plain = torch.zeros(4, 2), torch.zeros(1, 4, 2)
    extension = native.extension()

    def mix(a, others, out):
        if host:
            module = extension.host
            parameter = module.Mixed(a=a, others=others, unit=0, sharing="element")
            index = torch.tensor([3])
            module.mix(
                laws=native.laws(laws, module), seed=0, parameter=parameter, index=index, out=out, stream=0
            )
        else:
            given = {"level": "portable", "laws": native.laws(laws), "seed": 0, "unit": 0, "index": [3]}
            extension.mix(**given, sharing="element", draws=8, a=a, others=others, out=out, threads=1)

    mix(*plain, torch.zeros(1, 4, 2))
    for given in (
        (tensor, plain[1], torch.zeros(1, 4, 2)),
        (plain[0], tensor[None], torch.zeros(1, 4, 2)),
        (*plain, tensor[None].to(torch.float64)),
        (*plain, torch.zeros(1, 4, 3)),
    ):
        with pytest.raises(
            ValueError, match=r"is needed|neither float32 nor bfloat16|no Dtype|not one param"
        ):
            mix(*given)


def test_enumerations_are_written_once():
    """Names that Python uses are those of csrc/ops.def; their numbers are nobody's business."""
    known = native.extension().enumerations()
    assert set(known["LawKind"]) == set(rules.KINDS)
    assert set(known["LossKind"]) == {*criterion.OF_CLASSES, "soft_cross_entropy", *criterion.OF_ENTRIES}
    others = {"gelu_tanh", "identity", "pow", "power_of", "logical_not"}
    assert {function for function, _ in pointwise.UNARY_OPS.values()} | others == set(known["Function"])
    assert {dtype_name(dtype) for dtype in (*native.DTYPES, *cuda.DTYPES)} < set(known["Dtype"])
    assert {space.value for space in memory.Space} == set(known["Space"])
