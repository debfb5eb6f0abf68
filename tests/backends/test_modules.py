"""Modules of every kind: what runs under functional_call runs in a sweep, and is left as it was."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fastcomb as fc


class TestModules:
    """Whatever runs under functional_call runs here."""

    def check(self, make, x, y, *, unknown=None, between=None):
        """On both backends.

        ``unknown``: what the notice says that the compiled kernels cannot run; ``between``: what torch runs
        between them.
        """
        torch.manual_seed(0)
        a, b = make().eval(), make().eval()
        arguments = {"data": (x, y), "n": 5}
        sweeps = [fc.evaluate(a, b, fc.Uniform(), backend="torch_reference", **arguments)]
        if unknown:
            with pytest.warns(fc.BackendNotice, match=f"kernels cannot run.*{unknown}") as notices:
                sweeps.append(fc.evaluate(a, b, fc.Uniform(), **arguments))
            assert len([n for n in notices if "kernels cannot run" in str(n.message)]) == 1
            assert sweeps[1].backend == "torch_reference"
        else:
            told = pytest.warns(fc.BackendNotice, match=between) if between else contextlib.nullcontext()
            with told:
                sweeps.append(fc.evaluate(a, b, fc.Uniform(), **arguments))
            assert sweeps[1].backend == "native"
        with torch.no_grad():
            for sweep in sweeps:
                for k in (0, 4):
                    logits = functional_call(a, sweep.mixture[k], (x,))
                    assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)

    def test_parameters_used_in_unusual_ways(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.randn(5, 3))
                self.s = nn.Parameter(torch.randn(()))
                self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]))

            def forward(self, x):
                w = torch.stack([self.w, self.w.flip(0)]).mean(0) / self.w.norm()
                w = w + self.w[0] * self.w.shape[1] + torch.einsum("ij->j", self.w)
                out = (x * self.mask) @ w * torch.exp(self.s) + self.w.T.sum(1)
                out[:, 0] += len(self.w)
                return out

        self.check(Odd, torch.randn(6, 5), torch.randint(0, 3, (6,)))

    @pytest.mark.parametrize("tokens", [None, 5])
    def test_rows_of_whole_pages(self, tokens):
        """Widths whose rows fill 4096 bytes, which the engine keeps further apart: from layers, norms and
        pointwise operations, reshaped, added, attended to, in several dimensions and in blocks of one
        sample, whose rows lie otherwise."""

        class Wide(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.gate = nn.Linear(6, 1024), nn.Linear(6, 1024, bias=False)
                self.norm, self.middle = nn.LayerNorm(1024), nn.Linear(1024, 1024)
                self.last, self.head = nn.Linear(1024, 200), nn.Linear(200, 4)
                self.attention = nn.MultiheadAttention(1024, 4, batch_first=True) if tokens else None

            def forward(self, x):
                h = F.silu(self.gate(x)) * self.first(x)
                if self.attention is not None:
                    h = h + self.attention(h, h, h, need_weights=False)[0]
                h = self.norm(h + torch.sigmoid(self.middle(h)))
                h = F.gelu(self.middle(h)).reshape(*h.shape[:-1], 2, 512).flatten(-2) + self.first(x)
                h = self.head(torch.relu(self.last(h)))
                return h if x.ndim == 2 else h.mean(1)

        shape = (7, 6) if tokens is None else (7, tokens, 6)
        self.check(Wide, torch.randn(shape), torch.randint(0, 4, (7,)))

    @pytest.mark.parametrize("samples", [1, 4])
    def test_additions_of_fewer_dimensions(self, samples):
        """One sample has as many entries as what is the same for all; it lies otherwise nevertheless."""

        class Added(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 5, (3, 1), padding=(1, 0))
                self.places = nn.Parameter(torch.randn(5, 4, 1))
                self.last, self.row = nn.Linear(20, 4), nn.Parameter(torch.randn(4))

            def forward(self, x):
                places, row = torch.tanh(self.places), self.row.exp()
                return self.last((self.conv(x) + places).flatten(1)) + row

        self.check(Added, torch.randn(samples, 3, 4, 1), torch.randint(0, 4, (samples,)))

    def test_convolutions_of_all_kinds(self):
        def make():
            return nn.Sequential(
                nn.Conv1d(3, 4, 3, stride=2, padding=1, groups=1, bias=False),
                nn.Unflatten(2, (3, 3)),
                nn.Conv2d(4, 4, 3, padding="same", groups=2),
                nn.Unflatten(1, (2, 2)),
                nn.Conv3d(2, 4, (2, 3, 3), padding=(0, 1, 1), dilation=1),
                nn.Flatten(2),
                nn.ConvTranspose1d(4, 3, 2),
                nn.Flatten(),
                nn.Linear(30, 4),
            )

        self.check(make, torch.randn(6, 3, 18), torch.randint(0, 4, (6,)))

    @pytest.mark.parametrize("dim", [1, 2, 3])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_convolutions_batched_over_combinations(self, dim, groups):
        conv = getattr(nn, f"Conv{dim}d")

        def make():
            return nn.Sequential(
                conv(2, 4, 3, stride=2, padding=1, dilation=1, groups=groups),
                conv(4, 2, 2, bias=False),
                nn.Flatten(),
                nn.LazyLinear(3),
            )

        x = torch.randn(3, 2, *[7] * dim)
        nets = [make() for _ in range(2)]
        for net in nets:
            net(x)
        mix = fc.Mixture(*nets, fc.Uniform())
        outputs = mix.functional_call(nets[0], range(4), x)
        for k in range(4):
            torch.testing.assert_close(
                outputs[k], functional_call(nets[0], mix[k], (x,)), rtol=1e-4, atol=1e-5
            )

    def test_modules_that_write_to_their_input(self):
        class Centred(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(4, 3)

            def forward(self, x):
                return self.linear(x.sub_(1).mul_(2))

        x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
        before = x.clone()
        torch.manual_seed(0)
        a, b = Centred().eval(), Centred().eval()
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=70)
        outputs = sweep.mixture.functional_call(a, range(70), x)
        assert torch.equal(x, before)
        for k in (0, 1, 69):
            logits = functional_call(a, sweep.mixture[k], (x.clone(),))
            torch.testing.assert_close(outputs[k], logits, rtol=1e-5, atol=1e-5)
            assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)

    def test_a_transformer(self):
        def make():
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
            return nn.Sequential(
                nn.Linear(4, 8), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(40, 3)
            )

        self.check(make, torch.randn(6, 5, 4), torch.randint(0, 3, (6,)))

    def test_modules_that_vmap_cannot_run_are_run_one_by_one_with_one_notice(self):
        class Recurrent(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(4, 5, batch_first=True)
                self.head = nn.Linear(5, 3)

            def forward(self, x):
                return self.head(self.lstm(x)[0][:, -1])

        with pytest.warns(
            fc.BackendNotice, match="Recurrent runs combination by combination.*lstm"
        ) as notices:
            self.check(Recurrent, torch.randn(6, 7, 4), torch.randint(0, 3, (6,)))
        assert len([n for n in notices if "combination by combination" in str(n.message)]) == 1

    def test_data_dependent_control_flow(self):
        class Branch(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

            def forward(self, x):
                return self.one(x) if self.one.weight.sum() > 0 else self.two(x)

        with pytest.warns(fc.BackendNotice, match="combination by combination"):
            self.check(Branch, torch.randn(6, 4), torch.randint(0, 3, (6,)), unknown="capture")

    def test_faults_of_the_module_itself_come_through(self, pair):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            fc.evaluate(*pair, fc.Uniform(), data=(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)), n=2)

    def test_the_models_are_left_as_they_were(self, pair, data):
        a, b = pair
        a.train()
        before = {n: t.clone() for n, t in a.state_dict().items()}
        fc.evaluate(a, b, fc.Uniform(), data=data, n=3)
        assert a.training
        assert all(torch.equal(before[n], t) for n, t in a.state_dict().items())
