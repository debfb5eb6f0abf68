"""Cutting: names of layers, the two parts, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb import stitching
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.program import folded, layers
from tests.networks import MAKERS, NAMES, inputs, operations, randomised


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Shared(nn.Module):
    """A block that is called twice, with one in-place ReLU that fires twice in it."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.block(self.block(x)).view(x.size(0), -1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.linear(x)
        h += self.linear(self.relu(h.clone()))
        return self.relu(h)


def clean(model, *example):
    """Names of the layers at which a model can be cut."""
    return [layer.name for layer in stitching.layers(model, *example, clean=True)]


@pytest.mark.parametrize("name", NAMES)
def test_the_two_parts_together_are_the_network_bit_for_bit(name):
    model = randomised(MAKERS[name], 3)
    x = inputs(model, 5)
    names = clean(model)
    assert len(names) >= len(list(model.children())) - 1
    expected = operations(model, x)
    with torch.no_grad():
        for cut in stitching.cuts(model, names):
            h = cut.bottom(x)
            assert h.shape[1:] == tuple(cut.layer.shape[1:])
            assert h.shape[cut.layer.channels] == cut.width
            assert torch.equal(cut.top(h), expected), cut


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_modules_are_what_hooks_see(name):
    model = randomised(MAKERS[name], 4)
    x = inputs(model, 3)
    seen = {}
    watched = copy.deepcopy(model)
    for path, module in watched.named_modules():

        def keep(_module, _inputs, output, path=path):
            # a clone, since in-place operations may follow
            seen[path] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        module.register_forward_hook(keep)
    watched(x)
    names = seen.keys() & set(clean(model))
    assert len(names) > len(list(model.children())) // 2
    for cut in stitching.cuts(model, sorted(names)):
        with torch.no_grad():
            # torch's own tolerance for float32: with and without hooks attention takes different kernels
            torch.testing.assert_close(cut.bottom(x), seen[cut.layer.name])


def test_before_and_after_a_blocks_activation_are_told_apart():
    model = randomised(ResNet20, 0)
    x = inputs(model)
    before, after = stitching.cuts(model, ["layer1.0.add", "layer1.0"])
    with torch.no_grad():
        assert torch.equal(before.bottom(x).relu(), after.bottom(x))
        assert before.bottom(x).min() < 0
    assert stitching.cut(model, "layer1.0.relu@2").layer == after.layer
    assert stitching.cut(model, "layer1").layer.name == "layer1.2"
    listed = "\n".join(map(str, stitching.layers(model)))
    assert "layer2.0.add N×32×16×16" in listed
    assert "layer1.0.relu@1 N×16×32×32" in listed


def test_shared_modules_and_in_place_activations():
    torch.manual_seed(0)
    model = Shared()
    x = torch.randn(5, 6)
    kept = x.clone()
    names = [layer.name for layer in stitching.layers(model, x)]
    assert {"block.linear@1", "block.linear@4", "block.relu@1", "block.relu@4"} <= set(names)
    with pytest.raises(ValueError, match=r"'block' is called 2 times; choose one of 'block@1', 'block@2'"):
        stitching.cut(model, "block", x)
    with torch.no_grad():
        first = model.block(x.clone())
        cut = stitching.cut(model, "block@1", x)
        assert torch.equal(cut.bottom(x), first)
        assert torch.equal(cut.top(cut.bottom(x)), model(x.clone()))
    assert torch.equal(x, kept)


def test_the_top_counts_samples_of_what_it_is_given():
    torch.manual_seed(0)
    model = Shared()
    cut = stitching.cut(model, "block@2", torch.randn(2, 6))
    assert cut.top(torch.randn(7, 6)).shape == (7, 3)


def test_cuts_that_cannot_be_say_why():
    model = ResNet20()
    with pytest.raises(
        ValueError, match=r"severs a skip connection.*also reads 'relu'.*'relu' or 'layer1.0.add'"
    ):
        stitching.cut(model, "layer1.0.conv1")
    with pytest.raises(ValueError, match=r"no layer 'layer1.0.con1'; the nearest are 'layer1.0.conv1'"):
        stitching.cut(model, "layer1.0.con1")
    with pytest.raises(ValueError, match="'fc' is the output of ResNet20"):
        stitching.cut(model, "fc")
    with pytest.raises(ValueError, match="'x' is the input of ResNet20"):
        stitching.cut(model, "x")
    with pytest.raises(ValueError, match="'relu' is called 8 times"):
        stitching.cut(Tiny10(), "relu")
    with pytest.raises(ValueError, match="channels=0 is no dimension"):
        stitching.cut(Tiny10(), "bn1", channels=0)
    with pytest.raises(TypeError, match=r"pass an nn\.Module"):
        stitching.cut({"w": torch.ones(2)}, "w")


@pytest.mark.parametrize(
    ("make", "name", "axis"),
    [
        (Tiny10, "bn3", 1),
        (lambda: VGG(batch_norm=True), "classifier.0", 1),
        (ViT, "encoder.layers.0", 2),
        (ViT, "patches", 1),
        (lambda: MLP((20, 7, 5)), "2", 1),
    ],
)
def test_channels_are_read_off_the_operations(make, name, axis):
    model = make()
    assert stitching.cut(model, name).layer.channels == axis
    assert (
        stitching.cut(model, name, channels=-1).layer.channels
        == len(stitching.cut(model, name).layer.shape) - 1
    )


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [
        ("resnet18", "layer2.0.bn1", None),
        slow("resnet18", "layer3", 1),
        slow("densenet121", "features.transition1", 1),
        slow("convnext_tiny", "features.1.2", 1),
        slow("swin_t", "features.1", 3),
        slow("vit_b_16", "encoder.layers.encoder_layer_3", 2),
        slow("mobilenet_v3_small", "features.4", 1),
        slow("vgg11_bn", "features.14", 1),
    ],
)
def test_torchvision_models(vision, name, layer, channels):
    torch.manual_seed(0)
    options = {"image_size": 32} if name == "vit_b_16" else {}
    model = getattr(vision, name)(weights=None, **options).eval()
    x = torch.randn(2, 3, 32 if options else 64, 32 if options else 64)
    names = [each.name for each in stitching.layers(model, x)]
    assert not any(name.rpartition(".")[2].endswith("_") or "__" in name for name in names)
    if channels is None:
        with pytest.raises(ValueError, match="severs a skip connection"):
            stitching.cut(model, layer, x)
        return
    cut = stitching.cut(model, layer, x)
    assert cut.layer.channels == channels
    with torch.no_grad():
        assert torch.equal(cut.top(cut.bottom(x)), operations(model, x))


def test_parts_are_modules():
    model = randomised(Tiny10, 0)
    cut = stitching.cut(model, "bn4")
    x = inputs(model)
    names = {name for name, _ in model.named_parameters()}
    assert {name for part in (cut.bottom, cut.top) for name, _ in part.named_parameters()} == names
    assert not any(p.requires_grad for part in (cut.bottom, cut.top) for p in part.parameters())
    with torch.no_grad():
        h = cut.bottom(x)
        for same in (copy.deepcopy(cut.top), pickle.loads(pickle.dumps(cut.top))):
            assert torch.equal(same(h), cut.top(h))
        double = copy.deepcopy(cut.top).double()
        torch.testing.assert_close(double(h.double()).float(), cut.top(h), rtol=1e-4, atol=1e-4)
        assert torch.equal(fc.capture(cut.top, h).run(cut.top.state_dict(), h), cut.top(h))
        for parameter in model.parameters():
            parameter.zero_()
        assert cut.top(h).abs().max() > 0  # a copy


@pytest.mark.parametrize("name", ["tiny10", "resnet20", "vgg_bn", "vit"])
def test_folding_batch_norms_keeps_the_function(name):
    model = randomised(MAKERS[name], 5)
    program = fc.capture(model)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    fewer, scaled = folded(program, state)
    norms = sum(node.op == "batch_norm" for node in program)
    assert len(fewer) == len(program) - norms
    x = inputs(model)
    with torch.no_grad():
        expected = model(x)
        # every layer rounds its folded weights once: the tolerance is torch's own for float32
        torch.testing.assert_close(
            fewer.run(scaled, x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_norms_that_do_not_follow_a_layer_alone_are_not_folded():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)
            self.first = nn.BatchNorm2d(3)

        def forward(self, x):
            h = self.conv(self.first(x))
            return self.bn(h) + h

    model = randomised(Odd, 1)
    x = torch.randn(2, 3, 4, 4)
    program = fc.capture(model, x)
    fewer, scaled = folded(program, dict(model.named_parameters()) | dict(model.named_buffers()))
    assert len(fewer) == len(program)
    with torch.no_grad():
        assert torch.equal(fewer.run(scaled, x), model(x))


def test_layers_of_a_program_have_names_of_their_own():
    for make in MAKERS.values():
        found = layers(fc.capture(make()))
        names = [name for layer in found for name in (layer.name, *layer.aliases)]
        assert len({layer.name for layer in found}) == len(found)
        assert len(names) == len(set(names))
