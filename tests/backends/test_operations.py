"""Every operation of the compiled engine against torch in float64, on all instruction levels."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcomb as fc
from fastcomb.kernels import native
from tests.quick import levels, levels_and_dtypes

WEIGHTS = {
    "square": (7, 7), "into": (7, 5), "bias": (5,), "row": (7,), "slope": (1,), "slopes": (6,),
    "table": (9, 7), "conv3": (4, 6, 2, 3, 2), "grouped3": (6, 2, 2, 1, 3),
    "conv": (4, 6, 3), "conv2": (4, 6, 3, 2), "up": (6, 4, 3), "up2": (6, 4, 3, 2), "grouped": (6, 2, 3, 3),
    "gain": (4, 1, 1), "places": (6, 7), "one": (5,), "two": (6,), "three": (3, 5),
}  # fmt: skip
MASK = torch.rand(6, 7, generator=torch.Generator().manual_seed(4)) > 0.4
SEEN = torch.ones(6, 6, dtype=torch.bool).tril(1)
SEEN[2] = False
NUMBERS = torch.tensor([[3, 0, -1], [2, 2, 5]])
IDS = torch.tensor([[3, 0, 8], [2, 2, 5]])


class Case(nn.Module):
    """Functions of the input times a parameter, which both networks of a pair round alike."""

    def __init__(self, functions, shape):
        super().__init__()
        self.functions = functions
        self.scale = nn.Parameter(torch.randn(shape[1:]) + 1.5)
        self.register_buffer("mask", MASK, persistent=False)
        self.register_buffer("seen", SEEN, persistent=False)
        self.register_buffer("numbers", NUMBERS, persistent=False)
        self.register_buffer("ids", IDS, persistent=False)
        for name, size in WEIGHTS.items():
            self.register_parameter(name, nn.Parameter(torch.randn(size) * 0.7))

    def forward(self, x):
        z = x * self.scale
        return torch.cat([f(z, self).flatten(1) for f in self.functions.values()], 1)


def check(functions, shape, dtype=torch.float32):
    """Each function's part of two combinations' outputs, relative to its largest value."""
    torch.manual_seed(1)
    a, b = (Case(functions, shape).to(dtype).eval() for _ in range(2))
    x = torch.randn(shape, dtype=dtype)
    mix = fc.Mixture(a, b, fc.Uniform())
    found = mix.functional_call(a, range(2), x)  # which warns, and so fails, where another backend runs
    for k in range(2):
        state = {n: t.double() for n, t in mix[k].items()}
        scale = state.pop("scale")
        own = types.SimpleNamespace(**state, mask=MASK, seen=SEEN, numbers=NUMBERS, ids=IDS)
        z = (x.double() * scale).to(dtype).double()
        at = 0
        for name, function in functions.items():
            wanted = function(z, own).flatten(1)
            part = found[k, :, at : at + wanted.shape[1]].double()
            at += wanted.shape[1]
            # float32: sums of some hundred products; bfloat16: some stored values, each rounded to 2^-9
            close = {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
            limit = close * wanted[wanted.isfinite()].abs().max().item()
            torch.testing.assert_close(
                part,
                wanted,
                rtol=close,
                atol=limit,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        assert at == found.shape[2]


def attention(q, k, v, **arguments):
    return F.scaled_dot_product_attention(q, k, v, **arguments)


def heads(z, n):
    return z.unflatten(2, (n, -1)).transpose(1, 2)


TOKENS, CHANNELS, IMAGES, ROWS, VOLUMES = (5, 6, 7), (5, 6, 11), (3, 6, 8, 6), (9, 6), (3, 6, 5, 6, 4)
GROUPS = {
    "functions": (
        ROWS,
        {
            "rsub": lambda z, p: 1.5 - z,
            "reciprocal": lambda z, p: 1 / (z.abs() + 0.5),
            "sin": lambda z, p: z.sin(),
            "cos": lambda z, p: z.cos(),
            "log": lambda z, p: z.abs().log(),
            "log of negatives": lambda z, p: z.log(),
            "log1p": lambda z, p: z.abs().log1p(),
            "expm1": lambda z, p: z.expm1(),
            "square": lambda z, p: z.square(),
            "cube": lambda z, p: z**3,
            "fifth": lambda z, p: z**5.0,
            "root": lambda z, p: z.abs() ** 0.5,
            "inverse root": lambda z, p: (z.abs() + 0.5) ** -0.5,
            "inverse": lambda z, p: (z.abs() + 0.5) ** -1,
            "inverse square": lambda z, p: (z.abs() + 0.5) ** -2,
            "nothing": lambda z, p: z**0 + z**1,
            "power": lambda z, p: z.abs() ** 1.7,
            "no power": lambda z, p: z**1.7,
            "power of a number": lambda z, p: 2.5**z,
            "powers": lambda z, p: z.abs() ** p.two,
            "erf": lambda z, p: z.erf(),
            "tan": lambda z, p: z.clamp(-1, 1).tan(),
            "asin": lambda z, p: z.asin() + z.tanh().acos(),
            "atan": lambda z, p: z.atan(),
            "hyperbolic": lambda z, p: z.sinh() - z.cosh(),
            "exp2": lambda z, p: z.exp2(),
            "log2": lambda z, p: z.abs().log2() + z.abs().log10(),
            "erfc": lambda z, p: torch.erfc(z),
            "round": lambda z, p: (z * 2).round() - z.trunc(),
            "sign": lambda z, p: z.sign(),
            "floor": lambda z, p: z.floor(),
            "ceil": lambda z, p: z.ceil(),
            "own": lambda z, p: p.two * z + p.two - z / p.two,
        },
    ),
    "activations": (
        ROWS,
        {
            "celu": lambda z, p: F.celu(z, 0.7),
            "hardshrink": lambda z, p: F.hardshrink(z, 0.8),
            "softshrink": lambda z, p: F.softshrink(z, 0.8),
            "tanhshrink": lambda z, p: F.tanhshrink(z),
            "softsign": lambda z, p: F.softsign(z),
            "logsigmoid": lambda z, p: F.logsigmoid(z * 9),
            "threshold": lambda z, p: F.threshold(z, 0.3, -2.0),
            "prelu": lambda z, p: F.prelu(z, p.slope),
            "prelus": lambda z, p: F.prelu(z, p.slopes),
            "glu": lambda z, p: F.glu(z, 1),
            "softmin": lambda z, p: F.softmin(z, 1),
            "clamp": lambda z, p: z.clamp(-0.5, 1.25),
            "clamp below": lambda z, p: z.clamp(min=0.25),
            "clamp above": lambda z, p: z.clamp_max(0.5),
            "clip": lambda z, p: z.clip(max=0.1),
            "clamp by values": lambda z, p: z.clamp(p.two - 1, p.two),
            "elu": lambda z, p: F.elu(z, 0.4),
            "maximum": lambda z, p: torch.maximum(z, p.two),
            "minimum": lambda z, p: torch.min(z, z.flip(1)),
        },
    ),
    "masks": (
        TOKENS,
        {
            "where": lambda z, p: torch.where(z > 0.2, z, z.log()),
            "where both": lambda z, p: torch.where((z > 0.2) & (z < 1.5) | ~(z <= 3), z * 2, 0.25),
            "where constant": lambda z, p: torch.where(p.mask, z, p.row),
            "fill": lambda z, p: z.masked_fill(p.mask, -3.0),
            "fill computed": lambda z, p: z.masked_fill(z >= z.flip(2), 0.5),
            "equal": lambda z, p: z * (z == z.clamp(-1, 1)) + z * (z != z.relu()),
            "times": lambda z, p: z * p.mask,
            "not": lambda z, p: z * torch.logical_not(z > 0),
            "any": lambda z, p: z[:, 0] * (z > 1.9).any(1),
            "all": lambda z, p: z[:, :, 0] * (z > -1).all(2),
            "xor": lambda z, p: z * ((z > 0) ^ p.mask),
            "nan": lambda z, p: torch.where(z.log().isnan(), 1.0, z),
            "numbers": lambda z, p: z * torch.logical_or(z.relu(), z - z) * torch.logical_and(z, z > 1),
        },
    ),
    "products": (
        TOKENS,
        {
            "x w": lambda z, p: z @ p.into,
            "x w.T": lambda z, p: torch.relu(z @ p.square.T + z),
            "addmm": lambda z, p: torch.addmm(p.bias, z[:, 2], p.into),
            "addmm of rows": lambda z, p: torch.addmm(z[:, 1, :5], z[:, 2], p.into, alpha=0.5),
            "linear": lambda z, p: F.linear(z, p.square * 2 - p.square.T, p.row),
            "linear, low rank": lambda z, p: F.linear(z, (p.into @ p.into.T), p.row * 2),
            "linear of a view": lambda z, p: F.linear(z, p.into.T),
            "scores": lambda z, p: z @ z.transpose(1, 2),
            "bmm": lambda z, p: torch.bmm(z.mT, z),
            "baddbmm": lambda z, p: torch.baddbmm(z[:, :, :6], z, z.mT, alpha=2),
            "four": lambda z, p: heads(z[..., :6], 2) @ heads(z[..., :6], 2).mT[..., :4],
            "weight first": lambda z, p: p.square[:, :6] @ z,
            "vector": lambda z, p: z @ p.row,
            "vector first": lambda z, p: p.row[:6] @ z,
            "outer": lambda z, p: z[:, :1].mT @ z[:, 1:2],
        },
    ),
    "attention": (
        (5, 6, 24),
        {
            "plain": lambda z, p: attention(heads(z, 2), heads(z, 2), heads(z, 2)),
            "seen": lambda z, p: attention(heads(z, 2), heads(z, 2), heads(z, 2), attn_mask=p.seen),
            "added": lambda z, p: attention(heads(z, 2), heads(z, 2), heads(z, 2), attn_mask=p.places[:, :6]),
            "by sample": lambda z, p: attention(
                heads(z, 2), heads(z, 2), heads(z, 2), attn_mask=(z[:, None, None, :, 0] > -2)
            ),
            "by head": lambda z, p: attention(
                heads(z, 4), heads(z, 4), heads(z, 4), attn_mask=z[..., :4, None].permute(0, 2, 3, 1)
            ),
            "causal, more keys": lambda z, p: attention(
                heads(z, 2)[:, :, :4], heads(z, 2), heads(z, 2), is_causal=True
            ),
            "causal, more queries": lambda z, p: attention(
                heads(z, 2), heads(z, 2)[:, :, :4], heads(z, 2)[:, :, 1:5, :5], is_causal=True, scale=0.3
            ),
            "grouped": lambda z, p: attention(
                heads(z, 4),
                heads(z[..., :12], 2),
                heads(z[..., 12:], 2),
                enable_gqa=True,
                attn_mask=p.seen[:, :6],
            ),
            "repeated": lambda z, p: attention(
                heads(z, 4),
                heads(z[..., :12], 2).repeat_interleave(2, 1),
                heads(z[..., 12:], 2)[:, :, None].expand(-1, -1, 2, -1, -1).reshape(z.shape[0], 4, 6, 6),
            ),
            "five": lambda z, p: attention(*[z.reshape(-1, 2, 3, 6, 4)] * 3, attn_mask=p.seen),
        },
    ),
    "gathers": (
        TOKENS,
        {
            "select": lambda z, p: z.index_select(1, p.numbers[1]),
            "index": lambda z, p: z[:, p.numbers],
            "index both": lambda z, p: z[:, p.numbers, p.numbers[0]],
            "last": lambda z, p: z[..., p.numbers[1]],
            "roll": lambda z, p: z.roll((1, -2), (1, 2)),
            "flip": lambda z, p: z.flip((1, 2)),
            "repeat": lambda z, p: z.repeat(1, 2, 3),
            "tile": lambda z, p: z.tile(2, 1),
            "repeat up": lambda z, p: p.table.repeat(z.shape[0], 1, 1),
            "repeat rows": lambda z, p: (z.reshape(-1, 7) * p.places.repeat(z.shape[0], 1)).view_as(z),
            "expand rows": lambda z, p: (z.reshape(-1, 7) * p.row.expand(6 * z.shape[0], -1)).view_as(z),
            "interleave": lambda z, p: z.repeat_interleave(3, dim=1),
            "pad": lambda z, p: F.pad(z, (1, 2, 0, 1), value=0.5),
            "crop": lambda z, p: F.pad(z, (-1, 2, 1, -2)),
            "reflect": lambda z, p: F.pad(z, (3, 2), mode="reflect"),
            "replicate": lambda z, p: F.pad(z, (3, 2), mode="replicate"),
            "circular": lambda z, p: F.pad(z, (3, 2), mode="circular"),
            "rows of a table": lambda z, p: z + F.embedding(p.ids.reshape(-1), p.table),
            "rows of a view": lambda z, p: z[:, :2] * F.embedding(p.ids[:, ::2].T, p.table).mean(1),
            "rows of a computed table": lambda z, p: z[:, :2] + F.embedding(p.ids[1, :2], p.table * 2),
        },
    ),
    "orders": (
        TOKENS,
        {
            "sort": lambda z, p: z.sort(dim=2, stable=True).values,
            "sort down": lambda z, p: z.sort(1, descending=True).values,
            "numbers": lambda z, p: z.sort(dim=2, stable=True).indices * z[:, :1].exp(),
            "argsort": lambda z, p: z.exp() * z.argsort(dim=1, stable=True),
            "topk": lambda z, p: z.topk(3).values,
            "least": lambda z, p: z.topk(2, 1, largest=False).values,
            "picked": lambda z, p: z.gather(2, z.topk(2).indices) + z.gather(1, z.sort(1).indices)[..., :2],
            "gather": lambda z, p: z.exp().gather(2, z.sort(dim=2, stable=True).indices[:, 1:, :4]),
            "constant": lambda z, p: z.gather(
                1, p.numbers.abs()[:, :, None].expand(z.shape[0], -1, -1, 7)[:, 0]
            ),
            "argmax": lambda z, p: F.embedding(z.argmax(2), p.table) * z.argmin(1)[:, :6, None],
            "place": lambda z, p: z.max(2, keepdim=True).indices * z + z.min(1).indices[:, None],
            "table": lambda z, p: p.table[z.argmax(2)] * z[:, z[0, 0].argsort().numel() - 2, None],
            "one place": lambda z, p: z[:, 0] * p.table[z[:, 0, :6].argmax(1)],
            "scatter": lambda z, p: torch.full_like(z, -2.0).scatter(2, z.topk(2).indices, z.topk(2).values),
            "zeros": lambda z, p: z.scatter(1, z.sort(dim=1, stable=True).indices[:, :2], 0.0),
            "added": lambda z, p: z.scatter_add(
                2, z.sort(dim=2, stable=True).indices[..., :3], z[..., 4:].exp()
            ),
            "overwritten": lambda z, p: torch.slice_scatter(z, z[:, ::2] * 2, 1, 0, 6, 2),
            "selected": lambda z, p: torch.select_scatter(z, z[:, 0] * 2, 1, 3),
        },
    ),
    "views": (
        TOKENS,
        {
            "sizes": lambda z, p: torch.cat(z.split([1, 3, 2], 1)[::-1], 1),
            "tensor_split": lambda z, p: torch.cat(z.tensor_split(4, 2)[::-1], 2),
            "movedim": lambda z, p: z.movedim(1, 2),
            "mT": lambda z, p: z.mT.exp(),
            "to": lambda z, p: z.to("cpu").exp() + torch.as_tensor(z),
            "narrow": lambda z, p: z.narrow(1, 2, 3),
            "diagonal": lambda z, p: z.diagonal(1, dim1=1, dim2=2),
            "view_as": lambda z, p: z.reshape(-1, 42).view_as(z),
            "expand_as": lambda z, p: z[:, :1].expand_as(z),
            "squeeze": lambda z, p: z[:, None, ..., None].squeeze((1, 4)),
            "reshape_as": lambda z, p: z.mT.reshape_as(z),
        },
    ),
    "reductions": (
        TOKENS,
        {
            "min": lambda z, p: z.amin(1),
            "max.dim": lambda z, p: z.max(-1).values,
            "min.dim": lambda z, p: z.min(1, keepdim=True)[0],
            "prod": lambda z, p: z.prod(1),
            "var": lambda z, p: z.var(-1),
            "std": lambda z, p: z.std((1, 2), correction=0, keepdim=True),
            "norm": lambda z, p: z.norm(dim=2),
            "norm 1": lambda z, p: torch.linalg.vector_norm(z, 1, 1, keepdim=True),
            "normalize": lambda z, p: F.normalize(z, dim=1),
            "logsumexp": lambda z, p: z.mul(30).logsumexp((1, 2), keepdim=True),
            "cumsum": lambda z, p: z.cumsum(1),
            "cumsum of columns": lambda z, p: z.cumsum(-1),
            "mean": lambda z, p: z.mean(-1, keepdim=True) + z.mean((1, 2), keepdim=True),
        },
    ),
    "norms": (
        CHANNELS,
        {
            "rms": lambda z, p: F.rms_norm(z[..., :7], (7,), p.row),
            "group": lambda z, p: F.group_norm(z, 3, p.two, p.slopes),
            "instance": lambda z, p: F.instance_norm(z),
            "instance, own": lambda z, p: F.instance_norm(z[..., None], weight=p.two, bias=p.slopes),
            "group of features": lambda z, p: F.group_norm(z[..., 0], 2),
            "layer": lambda z, p: F.layer_norm(z[..., :7], (7,), p.row * 2, p.row.exp()),
            "group of volumes": lambda z, p: F.group_norm(z.unflatten(2, (11, 1, 1)), 2),
        },
    ),
    "rows of pixels": (
        CHANNELS,
        {
            "conv": lambda z, p: F.conv1d(z, p.conv, padding=1),
            "stride": lambda z, p: F.conv1d(z, p.conv, stride=2, dilation=2, padding=3),
            "deep": lambda z, p: F.conv1d(F.conv1d(z, p.conv, padding=1).relu(), p.conv[:, :4], padding=2),
            "standardised": lambda z, p: F.conv1d(z, p.conv / p.conv.std((1, 2), keepdim=True)),
            "weight norm": lambda z, p: F.conv1d(
                z, p.gain * p.conv / p.conv.norm(dim=(1, 2), keepdim=True), padding=1
            ),
            "groups": lambda z, p: F.conv1d(z, p.grouped[..., 0], groups=3),
            "depthwise": lambda z, p: F.conv1d(z, p.grouped[:, :1, 0], groups=6),
            "transposed": lambda z, p: F.conv_transpose1d(z, p.up, p.bias[:4]),
            "stride 2": lambda z, p: F.conv_transpose1d(z, p.up, stride=2, padding=1, output_padding=1),
            "stride 4": lambda z, p: F.conv_transpose1d(z, p.up, stride=4, dilation=2).relu(),
            "max": lambda z, p: F.max_pool1d(z, 3, 2, 1),
            "average": lambda z, p: F.avg_pool1d(z, 3, 2, 1),
            "adaptive": lambda z, p: F.adaptive_avg_pool1d(z, 4),
            "adaptive max": lambda z, p: F.adaptive_max_pool1d(z, 4),
            "nearest": lambda z, p: F.interpolate(z, scale_factor=1.7),
            "linear": lambda z, p: F.interpolate(z, size=7, mode="linear"),
        },
    ),
    "images": (
        IMAGES,
        {
            "computed": lambda z, p: F.conv2d(z, p.conv2 * 2 - 0.5, p.bias[:4] * 2, padding=1),
            "transposed": lambda z, p: F.conv_transpose2d(
                z, p.up2, p.bias[:4], stride=(2, 3), padding=(1, 0), output_padding=(1, 0)
            ).relu(),
            "groups": lambda z, p: F.conv_transpose2d(z, p.grouped, stride=2, groups=3),
            "wide": lambda z, p: F.conv_transpose2d(z, p.up2, stride=1, dilation=2, padding=1),
            "adaptive max": lambda z, p: F.adaptive_max_pool2d(z, (3, 2)),
            "nearest": lambda z, p: F.interpolate(z, scale_factor=2),
            "bilinear": lambda z, p: F.interpolate(z, size=(5, 13), mode="bilinear"),
            "corners": lambda z, p: F.interpolate(
                z, scale_factor=(2, 1.5), mode="bilinear", align_corners=True
            ),
            "same": lambda z, p: F.conv2d(z, p.conv2, padding="same"),
            "smaller": lambda z, p: F.interpolate(z, scale_factor=0.5, mode="bilinear"),
            "smaller and wider": lambda z, p: F.interpolate(z, scale_factor=(0.3, 2.5), mode="bicubic"),
            "exact": lambda z, p: F.interpolate(z, size=(5, 13), mode="nearest-exact"),
            "bicubic": lambda z, p: F.interpolate(z, size=(11, 7), mode="bicubic"),
            "shuffle": lambda z, p: F.pixel_shuffle(z.repeat(1, 2, 1, 1), 2),
            "unshuffle": lambda z, p: F.pixel_unshuffle(z, 2),
            "channels": lambda z, p: F.channel_shuffle(z, 3),
            "reflect": lambda z, p: F.pad(z, (1, 2, 3, 0), mode="reflect"),
            "replicate": lambda z, p: F.pad(z, (1, 2, 3, 0), mode="replicate"),
            "circular": lambda z, p: F.pad(z, (1, 2, 3, 1), mode="circular"),
            "prelu": lambda z, p: F.prelu(z, p.slopes),
            "glu": lambda z, p: F.glu(z, 1),
            "cat": lambda z, p: torch.cat([z, F.max_pool2d(z, 3, 1, 1)], 1),
            "instance": lambda z, p: F.instance_norm(z),
            "variance": lambda z, p: z.var((2, 3)),
        },
    ),
    "volumes": (
        VOLUMES,
        {
            "max": lambda z, p: F.max_pool3d(z, 2),
            "adaptive": lambda z, p: F.adaptive_avg_pool3d(z, (2, 3, 1)),
            "adaptive max": lambda z, p: F.adaptive_max_pool3d(z, 2),
            "flip": lambda z, p: z.flip(2),
            "conv": lambda z, p: F.conv3d(z, p.conv3, p.bias[:4], padding=(1, 0, 2)),
            "deep": lambda z, p: F.conv3d(
                F.conv3d(z, p.conv3, stride=(1, 2, 1), padding=1).relu(), p.conv3[:, :4], dilation=(2, 1, 3)
            ),
            "groups": lambda z, p: F.conv3d(z, p.grouped3, groups=3),
            "norm": lambda z, p: F.group_norm(z, 2, p.two),
        },
    ),
}


@pytest.fixture(params=levels())
def level(request, monkeypatch) -> str:
    monkeypatch.setenv(native.LEVEL_VARIABLE, request.param)
    return request.param


@pytest.mark.parametrize(("level", "dtype"), levels_and_dtypes(), indirect=["level"], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_operations(level, group, dtype):
    shape, functions = GROUPS[group]
    check(functions, shape, dtype)


def test_what_torch_has_in_float32_only(level):
    volumes = {
        "average": lambda z, p: F.avg_pool3d(z, 3, 2, 1),
        "own": lambda z, p: F.avg_pool3d(z, 2, 2, 1, count_include_pad=False, ceil_mode=True),
    }
    check(volumes, VOLUMES)
    smooth = {"smooth": lambda z, p: F.interpolate(z, size=(3, 4), mode="bilinear", antialias=True)}
    check(smooth, IMAGES)


EDGES = torch.tensor([
    torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 1, -1, 0.5, -0.5, 2.5, -2.5, 100,
])  # fmt: skip
NAMES = """
    reciprocal square log log1p expm1 sin cos tan erf erfc sign floor ceil round trunc exp2 log2 log10 asin
    acos atan sinh cosh sqrt rsqrt exp abs neg isnan logical_not
""".split()
AT_EDGES = {name: getattr(torch, name) for name in NAMES} | {
    "logsigmoid": F.logsigmoid,
    "hardshrink": lambda z: F.hardshrink(z, 0.6),
    "softshrink": lambda z: F.softshrink(z, 0.6),
    "threshold": lambda z: F.threshold(z, 0.1, 2.0),
    "celu": lambda z: F.celu(z, 0.5),
    "clamp": lambda z: z.clamp(-1, 2),
    **{f"to the power {p}": lambda z, p=p: z**p for p in (0, 0.5, -0.5, -1, -2, 3, 1.5)},
    "power of 2": lambda z: 2.0**z,
    "power of -2": lambda z: (-2.0) ** z,
    "powers": lambda z: z ** z.flip(1),
    **{
        f.__name__: lambda z, f=f: f(z, z.flip(1)) for f in (torch.maximum, torch.minimum, torch.eq, torch.ne)
    },
    **{f.__name__: lambda z, f=f: f(z, 0.5) for f in (torch.lt, torch.le, torch.gt, torch.ge)},
    "where": lambda z: torch.where(z > 0, z, 2.0),
    "largest": lambda z: z.amax(1, keepdim=True),
    "smallest": lambda z: z[:, 1:].amin(1, keepdim=True),
    "sort": lambda z: z.sort(1).values,
    "sort down": lambda z: z.sort(dim=1, descending=True, stable=True).indices.float(),
    "argmax": lambda z: z.argmax(1, keepdim=True).float() + z.min(1, keepdim=True).indices,
    "logsumexp": lambda z: torch.stack([z[:, i : i + 1].logsumexp(1) for i in range(3)], 1),
}


class Edges(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        z = x * self.one
        results = [f(z) for f in AT_EDGES.values()]
        return torch.cat([torch.where(r, 1.0, 0.0) if r.dtype == torch.bool else r for r in results], 1)


def test_numbers_at_the_edges(level):
    """Infinities, subnormal numbers, zeros and what is no number become what torch makes of them."""
    a, b = Edges().eval(), Edges().eval()
    x = EDGES.repeat(4, 1)
    found = fc.Mixture(a, b, fc.Uniform()).functional_call(a, 0, x)[0]
    wanted = a(x).detach()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-38, equal_nan=True)


class Padded(nn.Module):
    """Tokens, of which some are padding, compared and counted with."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
        self.register_buffer("places", torch.arange(7), persistent=False)

    def forward(self, ids):
        known = ids != 0
        x = (
            self.table(ids) * known[..., None]
            + self.table(ids[:, ::2]).mean(1, keepdim=True) * ids[..., None]
        )
        q = heads(x, 2)
        x = x + attention(q, q, q, attn_mask=known[:, None, None, :]).transpose(1, 2).flatten(2)
        x = x.masked_fill(ids.ge(self.places)[..., None], 0.5) * self.places[:, None]
        return self.head(torch.where((ids > 3)[..., None], x, -x)).amax(1)


@pytest.mark.parametrize(("level", "dtype"), levels_and_dtypes(), indirect=["level"], ids=str)
def test_tokens_that_are_compared(level, dtype):
    torch.manual_seed(3)
    a, b = (Padded().to(dtype).eval() for _ in range(2))
    ids = torch.randint(0, 11, (6, 7))
    ids[:, 4:] = 0
    mix = fc.Mixture(a, b, fc.Uniform())
    found = mix.functional_call(a, range(2), ids)
    a.double()
    for k in range(2):
        state = {n: t.double() for n, t in mix[k].items()}
        wanted = torch.func.functional_call(a, state, (ids,))
        close = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
        torch.testing.assert_close(
            found[k].double(), wanted, rtol=close, atol=close * wanted.abs().max().item()
        )


class Refused(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return self.function(x * self.scale)


REFUSED = {
    "sort": (lambda z: z.sort(0).values, "sort across samples"),
    "argmax": (lambda z: z * z.argmax(0).float(), "argmax across samples"),
    "gather": (lambda z: z.gather(0, z.argsort(1)[:1].clamp(max=0).expand_as(z)), "across samples"),
    "scatter": (lambda z: z.scatter(0, z.argsort(1).clamp(max=0), 0.0), "scatter across samples"),
    "cumsum": (lambda z: z.cumsum(0), "cumsum across samples"),
    "flip": (lambda z: z.flip(0, 1), "flip across samples"),
    "roll": (lambda z: z.roll(1), "roll across samples"),
    "max": (lambda z: z - z.max(0).values, "max across samples"),
    "std": (lambda z: z / z.std(), "std across samples"),
    "norm": (lambda z: z / z.norm(dim=(0, 1), keepdim=True), "linalg_vector_norm across samples"),
    "movedim": (lambda z: (z.movedim(0, 2) @ z.movedim(0, 1)).sum(1), "matmul across samples"),
    "attention": (
        lambda z: attention(z.transpose(0, 1), z.transpose(0, 1), z.transpose(0, 1)).transpose(0, 1),
        "scaled_dot_product_attention across samples",
    ),
    "a product of samples": (
        lambda z: (z.flatten(1) @ z.flatten(1).T).softmax(1) @ z[:, 0],
        "across samples",
    ),
    "an order": (lambda z: z.norm(3, 2), "norm of order 3|linalg_vector_norm"),
    "division": (lambda z: z.div(2, rounding_mode="floor"), "rounded division|div"),
    "bits": (lambda z: z * (~(z > 0).long()), "cast|to.dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name):
    function, reason = REFUSED[name]
    torch.manual_seed(2)
    a, b = (Refused(function).eval() for _ in range(2))
    x = torch.randn(5, 6, 6)
    mix = fc.Mixture(a, b, fc.Uniform())
    with pytest.warns(fc.BackendNotice, match=reason):
        found = mix.functional_call(a, range(2), x)
    for k in range(2):
        torch.testing.assert_close(found[k], torch.func.functional_call(a, mix[k], (x,)))
