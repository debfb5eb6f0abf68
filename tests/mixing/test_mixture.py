"""Mixtures: which coefficient belongs to which weight, and networks from numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import fastcomb as fc
from fastcomb.models import MLP, Tiny10
from tests import independent

GRANULARITIES = ["element", "neuron", "layer", "model"]


@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    per=st.sampled_from(GRANULARITIES),
    bits=st.sampled_from([16, 32]),
)
@settings(max_examples=30, deadline=None)
def test_coefficients_equal_an_independent_computation(seed, index, per, bits):
    theta = {
        "b.weight": torch.zeros(3, 2, 2),
        "b.bias": torch.zeros(3),
        "B.weight": torch.zeros(9, 1),
        "ä": torch.zeros(()),
        "b.10.weight": torch.zeros(4, 5),
    }
    found = fc.Mixture(theta, theta, fc.Uniform(per=per, bits=bits), seed).coefficients(index)
    for name, u in independent.uniforms(theta, seed, index, per, bits).items():
        assert found[name].dtype == torch.float32
        np.testing.assert_array_equal(found[name].double().numpy(), u)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_coefficients_do_not_depend_on_the_order_of_a_mapping(pair, per):
    a, b = (model.state_dict() for model in pair)
    shuffled = [{n: side[n] for n in sorted(side, key=hash)} for side in (a, b)]
    one = fc.Mixture(a, b, fc.Uniform(per=per), seed=5).coefficients(8)
    other = fc.Mixture(*shuffled, fc.Uniform(per=per), seed=5).coefficients(8)
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_modules_mappings_and_files_are_the_same_network(pair, tmp_path):
    a, b = pair
    save_file(a.state_dict(), tmp_path / "a.safetensors")
    torch.save(b.state_dict(), tmp_path / "b.pt")
    states = [
        fc.Mixture(*thetas, fc.Uniform(), seed=2)[7]
        for thetas in (
            (a, b),
            (a.state_dict(), b.state_dict()),
            (a, b.state_dict()),
            (tmp_path / "a.safetensors", str(tmp_path / "b.pt")),
        )
    ]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[n], states[0][n]) for n in state)


def test_buffers_are_carried_and_running_statistics_are_no_parameters():
    a, b = Tiny10(), Tiny10()
    b.bn1.running_mean += 1
    from_modules = fc.Mixture(a, b, fc.Uniform())
    from_mappings = fc.Mixture(a.state_dict(), b.state_dict(), fc.Uniform())
    assert from_modules.names == from_mappings.names == tuple(n for n, _ in a.named_parameters())
    state = from_modules[0]
    assert torch.equal(state["bn1.running_mean"], a.bn1.running_mean)
    assert state["bn1.num_batches_tracked"].dtype == torch.int64
    a.load_state_dict(state)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.body(self.embed(tokens)))).mean(1)


def test_tied_parameters_share_one_set_of_coefficients():
    torch.manual_seed(0)
    a, b = Tied(), Tied()
    for thetas in ((a, b), (a.state_dict(), b.state_dict())):
        mix = fc.Mixture(*thetas, fc.Uniform())
        assert mix.names == ("embed.weight", "body.weight", "body.bias")
        state = mix[4]
        assert state["head.weight"] is state["embed.weight"]
    tokens = torch.randint(0, 11, (6, 3))
    outputs = mix.functional_call(a, range(5), tokens)
    for i in range(5):
        torch.testing.assert_close(outputs[i], torch.func.functional_call(a, mix[i], (tokens,)))


def test_a_copy_is_taken_of_the_networks(pair, data):
    a, b = pair
    mix = fc.Mixture(a, b, fc.Uniform())
    before = mix[0]
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.zero_()
    after = mix[0]
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_functional_call_equals_rebuilt_networks(pair, data):
    """float32: the batched matrix products may sum in another order, so 1e-5 of the largest output."""
    a, b = pair
    mix = fc.Mixture(a, b, fc.Normal(0.5, 1.0), seed=3)
    indices = [0, 5, 2**63, 2**64 - 1, 5, *range(100, 180)]
    outputs = mix.functional_call(a, indices, data[0])
    assert outputs.shape == (len(indices), 100, 5)
    for k, i in enumerate(indices):
        expected = torch.func.functional_call(a, mix[i], (data[0],))
        torch.testing.assert_close(outputs[k], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert mix.functional_call(a, 5, data[0]).shape == (1, 100, 5)
    assert mix.functional_call(a, [], data[0]).shape == (0, 100, 5)
    assert mix.functional_call(a, torch.tensor([1, 2]), data[0]).shape == (2, 100, 5)


def test_functional_call_passes_keywords_and_returns_the_modules_structure():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))

        def forward(self, x, *, scale):
            return {"y": x * self.w * scale, "size": (self.w.sum(),)}

    mix = fc.Mixture(Two(), Two(), fc.Uniform())
    result = mix.functional_call(Two(), range(3), torch.ones(2, 3), scale=2.0)
    assert result["y"].shape == (3, 2, 3)
    torch.testing.assert_close(result["y"][1][0], 2 * mix[1]["w"])
    assert result["size"][0].shape == (3,)


def test_training_mode_is_respected_and_the_module_is_left_as_it_was():
    model = Tiny10().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    x = torch.randn(4, 3, 32, 32)
    mix = fc.Mixture(model, Tiny10(), fc.Uniform())
    with pytest.warns(fc.BackendNotice, match="combination by combination"):
        outputs = mix.functional_call(model, range(3), x)
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    expected = torch.func.functional_call(model, mix[2], (x,))
    torch.testing.assert_close(outputs[2], expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("1.bias"), ValueError, r"different parameters: '1.bias' \(only in theta_a\)"),
        (lambda s: s.update({"x": torch.ones(1)}), ValueError, r"'x' \(only in theta_b\)"),
        (lambda s: s.update({"1.bias": torch.ones(2)}), ValueError, r"'1.bias' \(63,\) against \(2,\)"),
        (
            lambda s: s["3.bias"].fill_(float("nan")),
            ValueError,
            "theta_b: '3.bias' has 3 values that are NaN",
        ),
        (lambda s: s.update({"epoch": 3}), TypeError, "'epoch'.*int, not a tensor"),
    ],
)
def test_networks_that_do_not_match_are_refused(pair, change, error, message):
    a, b = ({n: t.clone() for n, t in model.state_dict().items()} for model in pair)
    change(b)
    with pytest.raises(error, match=message):
        fc.Mixture(a, b, fc.Uniform())


def test_many_differences_are_cut_short():
    with pytest.raises(ValueError, match="and 1 more"):
        fc.Mixture({f"w{i}": torch.ones(1) for i in range(6)}, {}, fc.Uniform())


def test_a_model_that_does_not_fit_is_refused(pair, data):
    mix = fc.Mixture(*pair, fc.Uniform())
    with pytest.raises(ValueError, match=r"does not fit MLP: '5.weight' is \(5, 3\), in the model \(4, 3\)"):
        mix.functional_call(MLP((7, 63, 3, 4)), [0], data[0])
    with pytest.raises(ValueError, match=r"'7.bias' is missing"):
        mix.functional_call(MLP((7, 63, 3, 5, 2)), [0], data[0])
    with pytest.raises(ValueError, match=r"the model has no '5.weight'"):
        mix.functional_call(MLP((7, 63, 3)), [0], data[0])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(pair, seed):
    with pytest.raises(ValueError, match="seed"):
        fc.Mixture(*pair, fc.Uniform(), seed)


@pytest.mark.parametrize("index", [-1, 2**64])
def test_indices_outside_64_bits_are_refused(pair, index):
    mix = fc.Mixture(*pair, fc.Uniform())
    for use in (mix.__getitem__, mix.coefficients):
        with pytest.raises(IndexError, match="outside"):
            use(index)
    with pytest.raises(TypeError, match="is an int"):
        mix[1:3]


def test_pickles_are_not_executed(pair, tmp_path):
    torch.save(pair[0], tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="executing pickled code"):
        fc.Mixture(tmp_path / "whole.pt", pair[1], fc.Uniform())
    with pytest.raises(FileNotFoundError, match="no file"):
        fc.Mixture(tmp_path / "none.safetensors", pair[1], fc.Uniform())


def test_other_arguments_are_refused(pair):
    with pytest.raises(TypeError, match="sampler is a float"):
        fc.Mixture(*pair, 0.5)
    with pytest.raises(TypeError, match="theta_a is a int"):
        fc.Mixture(3, pair[1], fc.Uniform())
    with pytest.raises(ValueError, match="no floating-point parameters"):
        fc.Mixture(
            {"n": torch.ones(2, dtype=torch.int64)}, {"n": torch.ones(2, dtype=torch.int64)}, fc.Uniform()
        )
    with pytest.raises(ValueError, match="not initialised"):
        fc.Mixture(nn.LazyLinear(3), nn.LazyLinear(3), fc.Uniform())
    with pytest.raises(ValueError, match=r"theta_a lacks parameters of the model: '3.weight'"):
        fc.Mixture(MLP((3, 4)).state_dict(), pair[1], fc.Uniform())
    with pytest.raises(
        ValueError, match=r"theta_a does not fit the model: '1.weight' \(9, 7\), model \(63, 7\)"
    ):
        fc.Mixture(MLP((7, 9, 3, 5)).state_dict(), pair[1], fc.Uniform())
    with pytest.raises(ValueError, match="theta_a has entries that the model does not know: 'extra'"):
        fc.Mixture(pair[0].state_dict() | {"extra": torch.ones(1)}, pair[1], fc.Uniform())
