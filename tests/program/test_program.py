"""Programs: what is captured computes what the module computes, and says what it is."""

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.program import CaptureError, Weight
from fastcomb.program.cache import captured
from tests.quick import mostly_slow

FAMILIES = {
    "mlp": lambda: MLP((20, 16, 5)),
    "tiny10": Tiny10,
    "resnet20": ResNet20,
    "vgg": VGG,
    "vgg_bn": lambda: VGG(batch_norm=True),
    "vit": ViT,
}


def state(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_understood_and_reproduced_for_other_batches_and_weights(name):
    torch.manual_seed(0)
    model, other = FAMILIES[name]().eval(), FAMILIES[name]().eval()
    program = fc.capture(model)
    assert program.unknown == ()
    x = torch.randn(5, 20) if name == "mlp" else torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        found = program.run(state(other), x)
        torch.testing.assert_close(found, other(x), rtol=1e-5, atol=1e-5)
    reached = {w.name for node in program for w in node.weights if w.kind == "parameter"}
    assert reached == {n for n, _ in model.named_parameters()}


def test_the_table_shows_operations_weights_and_shapes():
    text = str(fc.capture(Tiny10()))
    assert "conv2d" in text
    assert "conv1.weight, conv1.bias" in text
    assert "N×16×30×30" in text
    assert "bn8.running_var" in text
    assert "returns linear; 26 operations, 0 unknown" in text


def test_unknown_operations_stay_visible():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return torch.logcumsumexp(x * self.w, 1)

    program = fc.capture(Odd(), torch.randn(3, 4))
    assert [node.op for node in program] == ["mul", "unknown"]
    assert "? aten.logcumsumexp.default" in str(program)
    x = torch.randn(2, 4)
    model = Odd()
    torch.testing.assert_close(program.run(state(model), x), model(x))


def test_arguments_are_named_with_their_defaults():
    node = next(node for node in fc.capture(Tiny10()) if node.op == "conv2d")
    assert node.arguments["weight"] == Weight("conv1.weight", "parameter")
    assert node.arguments["stride"] == [1, 1]
    assert node.arguments["dilation"] == 1 or list(node.arguments["dilation"]) == [1, 1]
    assert node.arguments["groups"] == 1
    assert node.module == "conv1"


def test_tied_weights_have_one_name_and_constants_are_kept():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x)) + torch.tensor([1.0, 2.0, 3.0, 4.0])

    model = Tied()
    program = fc.capture(model)
    names = {w.name for node in program for w in node.weights if w.kind == "parameter"}
    assert names == {"one.weight", "one.bias", "two.bias"}
    x = torch.randn(3, 4)
    torch.testing.assert_close(program.run(state(model), x), model(x))


def test_in_place_operations_are_read_as_new_values():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            h = self.linear(x)
            nn.functional.relu_(h)
            return h + h.mul_(2)

    model = InPlace()
    program = fc.capture(model)
    assert program.unknown == ()
    x = torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(program.run(state(model), x), model(x))


def test_several_inputs_and_structured_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x, y):
            return {"sum": self.linear(x) + y, "x": x}

    model = Two()
    inputs = torch.randn(3, 4), torch.randn(3, 2)
    program = fc.capture(model, *inputs)
    found = program.run(state(model), *inputs)
    torch.testing.assert_close(found["sum"], model(*inputs)["sum"])
    assert found["x"] is inputs[0]


def test_the_module_is_left_as_it_was():
    model = Tiny10().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fc.capture(model)
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_what_cannot_be_captured_is_one_clear_error():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    with pytest.raises(CaptureError, match=r"Branch cannot be captured by torch.export"):
        fc.capture(Branch())
    with pytest.raises(ValueError, match="no input shape could be guessed for Identity"):
        fc.capture(nn.Identity())


@pytest.mark.parametrize("name", mostly_slow(["resnet18", "mobilenet_v3_small"], 0))
def test_torchvision_models(name, vision):
    torch.manual_seed(0)
    model = getattr(vision, name)(weights=None).eval()
    program = fc.capture(model, torch.randn(2, 3, 64, 64))
    assert program.unknown == ()
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.run(state(model), x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_modules_are_captured_once(kind):
    """Torch's own keep their weights in lists, and weak references to them."""
    x = torch.randn(2, 1, 4)
    one, other, tied = (kind(4, 4, batch_first=True).eval() for _ in range(3))
    tied.bias_hh_l0 = tied.bias_ih_l0
    program = captured(one, x)
    assert captured(other, x) is program
    assert captured(tied, x) is not program


class TestKept:
    """Programs of Hugging Face's modules, whose code reaches locks and files, are found again."""

    @pytest.fixture
    def hf(self, vision):
        return pytest.importorskip("transformers")

    @staticmethod
    def gpt2(hf, seed, **options):
        torch.manual_seed(seed)
        config = hf.GPT2Config(
            vocab_size=20,
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=1,
            **options,
        )
        return hf.GPT2LMHeadModel(config).eval()

    @pytest.mark.filterwarnings("default")  # of the package itself
    def test_the_same_for_other_weights(self, hf):
        x = torch.randint(20, (2, 8))
        program = captured(self.gpt2(hf, 0), x)
        assert captured(self.gpt2(hf, 1), x) is program

    @pytest.mark.filterwarnings("default")
    def test_another_for_another_configuration(self, hf):
        x = torch.randint(20, (2, 8))
        program = captured(self.gpt2(hf, 0), x)
        assert captured(self.gpt2(hf, 0, activation_function="relu"), x) is not program

    @pytest.mark.filterwarnings("default")
    def test_another_for_another_forward(self, hf, monkeypatch):
        x = torch.randint(20, (2, 8))
        kind = type(self.gpt2(hf, 0).transformer.h[0].mlp)
        program = captured(self.gpt2(hf, 0), x)
        monkeypatch.setattr(kind, "forward", lambda self, x: self.c_proj(self.c_fc(x)))
        assert captured(self.gpt2(hf, 0), x) is not program
