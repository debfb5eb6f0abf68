"""Random networks: the module's source, weights, memory formats, data, loss and sampler of one number."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcomb.mixing.endpoints import RUNNING_STATISTICS
from tests.fuzz import draft, pieces

_SAMPLES = 5  # of the trial input
_ATTEMPTS = 60


@dataclass(frozen=True)
class Network:
    """One case of the fuzz; everything about it follows from its seed and number.

    Attributes:
        seed, number: which.
        kind: of its input: "vectors", "images", "sequences" or "tokens".
        source: of the class ``Net``.
        shape: of one sample.
        loss: a name or a source.
        targets: what y holds.
        classes: how many.
        formats: memory formats of the weights: (which network, format) pairs.
        data_format: of x.
        sampler: a source.
        same_buffers: whether the two networks' buffers (and parameters that are not floating) agree.
        training: whether the user hands the modules over in training mode.
        samples: N of the evaluation data.
        dtype: of the modules' parameters.
        warm: whether the modules ran once before they are handed over.
        by_state: whether θ are handed over as state dicts beside a module.
    """

    seed: int
    number: int
    kind: str
    source: str
    shape: tuple[int, ...]
    loss: str
    targets: str
    classes: int
    formats: tuple[tuple[str, str], ...]
    data_format: str
    sampler: str
    same_buffers: bool
    training: bool
    samples: int
    dtype: torch.dtype
    warm: bool
    by_state: bool
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def rng(self, purpose: str) -> random.Random:
        """Choices of one purpose."""
        return random.Random(f"{self.seed}/{self.number}/{purpose}")

    def build(self, which: str, *, fresh: bool = False) -> nn.Module:
        """A module "a" or "b" in eval mode, as the user has it, or fresh: contiguous and never run."""
        if "class" not in self._made:
            self._made["class"] = draft.compiled(self.source, f"network {self.number}")
        torch.manual_seed(hash_of(self.seed, self.number, which))
        module: nn.Module = self._made["class"]()
        _randomise(module)
        if which == "b" and self.same_buffers:
            _same_constants(module, self.build("a", fresh=True))
        module = module.to(self.dtype) if self.dtype != torch.float32 else module
        if not fresh:
            for whose, how in self.formats:
                if which in whose:
                    _format(module, how, self.rng(f"format {which}"))
        if self.warm and not fresh:
            module.eval()(self.inputs(2, "before"))
        return module.eval()

    def inputs(self, samples: int, purpose: str = "data") -> Tensor:
        """x [samples, *shape], contiguous."""
        generator = torch.Generator().manual_seed(hash_of(self.seed, self.number, purpose))
        if self.kind == "tokens":
            return torch.randint(0, vocabulary(self.shape), (samples, *self.shape), generator=generator)
        return torch.randn(samples, *self.shape, generator=generator).to(self.dtype)

    def target(self, output: Any, samples: int, purpose: str = "data") -> Tensor:
        """y for an output of the network on that many samples."""
        generator = torch.Generator().manual_seed(hash_of(self.seed, self.number, f"targets of {purpose}"))
        if self.targets == "same":
            return torch.randn(output.shape, generator=generator).to(output.dtype)
        if self.targets == "probabilities":
            return torch.randn(output.shape, generator=generator).softmax(1)
        if self.targets == "binary":
            return torch.randint(0, 2, (samples,), generator=generator).float()
        shape = (samples, 2) if self.targets == "dense" else (samples,)
        return torch.randint(0, self.classes, shape, generator=generator)

    def score(self) -> str | Callable[[Any, Tensor], Tensor]:
        """``loss=`` as fastcomb takes it."""
        if self.loss.startswith("lambda"):
            found: Callable[[Any, Tensor], Tensor] = eval(self.loss, draft.scope())
            return found
        return self.loss

    def __str__(self) -> str:
        return (
            f"# network {self.number} of seed {self.seed}: {self.kind} {self.shape}, {self.samples} samples "
            f"({self.data_format}), loss {self.loss} ({self.targets}), {self.sampler}, "
            f"formats {list(self.formats)}, {'same' if self.same_buffers else 'other'} buffers"
            f"{', handed over in training mode' if self.training else ''}"
            f"{', run before' if self.warm else ''}{', as state dicts' if self.by_state else ''}"
            f"{'' if self.dtype == torch.float32 else f', {self.dtype}'}\n{self.source}"
        )


def make(number: int, seed: int = 0) -> Network:
    """The network of a number."""
    for attempt in range(_ATTEMPTS):
        network = _drawn(number, seed, random.Random(f"{seed}/{number}/{attempt}"))
        if network is not None and _alive(network):
            return network
    raise RuntimeError(f"no network came about for number {number} of seed {seed}")


def vocabulary(shape: tuple[int, ...]) -> int:
    """Number of tokens where sequences have this shape."""
    return 4 + 3 * shape[0]


def hash_of(*values: Any) -> int:
    """A seed for torch that is the same in every process."""
    return random.Random(repr(values)).getrandbits(31)


def _drawn(number: int, seed: int, rng: random.Random) -> Network | None:
    kind = rng.choice(["vectors", "images", "sequences", "tokens"])
    shape: tuple[int, ...] = {
        "vectors": (rng.choice([1, 2, 3, 7, 8, 16, 17, 63]),),
        "images": (rng.choice([1, 2, 3, 4, 8]), rng.choice([3, 4, 5, 7, 8]), rng.choice([3, 4, 6, 8, 9])),
        "sequences": (rng.choice([1, 2, 3, 5, 7]), rng.choice([1, 3, 4, 7, 8, 16, 17])),
        "tokens": (rng.choice([1, 2, 3, 5, 8]),),
    }[kind]
    sample = torch.randn(_SAMPLES, *shape)
    if kind == "tokens":
        sample = torch.randint(0, vocabulary(shape), (_SAMPLES, *shape))
    written = draft.Draft(rng, sample)
    length = rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 8])
    common = rng.random() < 0.5
    if kind == "tokens":
        written.add(rng.choice(_lines(pieces.TOKENS, common)), V=vocabulary(shape))
        if not written.h.is_floating_point():
            return None
    elif rng.random() < 0.2:
        written.add(rng.choice(_lines(pieces.BEGINNINGS, common)))
    added = 0
    for _ in range(12 * length):
        if rng.random() < 0.5:
            written.keep()
        pool = {2: pieces.VECTORS, 3: pieces.SEQUENCES, 4: pieces.IMAGES}[written.h.ndim]
        own = rng.random() < 0.6
        added += written.add(rng.choice(_lines(pool if own else pieces.ANY, common)))
        if added == length:
            break
    classes = rng.choice([2, 3, 5, 10])
    line, loss, targets = rng.choice(pieces.HEADS[:14] if common else pieces.HEADS)
    if written.h.ndim > 2:
        flat = ["h = h.flatten(1)", "h = h.mean(1)", "h = h[:, 0]", "h = h[:, -1]", "h = h.amax(-1)"]
        for _ in range(9):
            if written.h.ndim == 2:
                break
            written.add(rng.choice(flat))
    if written.h.ndim != 2 or not written.add(line, final=True, K=classes):
        return None
    sides = ("a", "b", "ab")
    formats = tuple(
        (rng.choice(sides), rng.choice(list(FORMATS))) for _ in range(rng.choice([0, 0, 0, 1, 1, 2]))
    )
    network = Network(
        seed=seed,
        number=number,
        kind=kind,
        source=written.source(),
        shape=shape,
        loss=loss,
        targets=targets,
        classes=classes,
        formats=formats,
        data_format=rng.choice(["plain"] * 4 + DATA_FORMATS),
        sampler=rng.choice(SAMPLERS),
        same_buffers=rng.random() < 0.8,
        training=rng.random() < 0.15,
        samples=rng.choice([3, 5, 8, 13, 31]),
        dtype=rng.choice([torch.float32] * 18 + [torch.float64, torch.bfloat16]),
        warm=rng.random() < 0.15,
        by_state=rng.random() < 0.15,
    )
    if network.dtype == torch.bfloat16 and "orthogonal(" in network.source:
        return None  # torch's matrix_exp yields infinite values in bfloat16, which say nothing
    return network


SAMPLERS = [
    "fc.Uniform()",
    "fc.Uniform()",
    "fc.Uniform()",
    "fc.Uniform(per='model')",
    "fc.Uniform(per='layer')",
    "fc.Uniform(per='neuron')",
    "fc.Uniform(-0.5, 1.5)",
    "fc.Normal(0.5, 0.3)",
    "fc.Beta(0.5, 2.0)",
    "fc.Bernoulli(0.3)",
]


def _lines(pool: str, common: bool) -> list[str]:
    """The pieces of a pool, or those that kernels are made for."""
    lines = pool.strip().splitlines()
    return [line.removeprefix("* ") for line in lines if line.startswith("* ") or not common]


def _alive(network: Network) -> bool:
    """Whether plain torch runs it, and the result depends on the weights."""
    x = network.inputs(_SAMPLES)
    try:
        with torch.no_grad():
            a, b = (tree_leaves(network.build(which)(x.clone())) for which in "ab")
    except Exception:
        return False
    tensors = [(p, q) for p, q in zip(a, b, strict=True) if isinstance(p, Tensor)]
    finite = all(bool(t.isfinite().all()) for pair in tensors for t in pair)
    return finite and any(float((p - q).abs().max()) > 1e-3 for p, q in tensors if p.numel())


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Running statistics and constant weights (scales, biases of norms) become random."""
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.numel() and parameter.min() == parameter.max():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=parameter.dtype))


@torch.no_grad()
def _same_constants(module: nn.Module, other: nn.Module) -> None:
    """Give a module the buffers of another, running statistics aside, and its integer and complex weights."""
    theirs = dict(other.named_buffers()) | dict(other.named_parameters())
    for name, tensor in (*module.named_buffers(), *module.named_parameters()):
        running = name.rpartition(".")[2] in RUNNING_STATISTICS and not _frozen(module, name)
        mixed = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        if not running and not mixed:
            tensor.copy_(theirs[name])


def _frozen(module: nn.Module, name: str) -> bool:
    """Whether a running statistic belongs to no norm layer of torch."""
    return not isinstance(module.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._NormBase)


def _strided(value: Tensor, order: list[int]) -> Tensor:
    """The same values with dimensions laid out in another order."""
    back = [order.index(i) for i in range(len(order))]
    return value.permute(order).contiguous().permute(back)


def _spread(value: Tensor) -> Tensor:
    wide = value.new_full((*value.shape, 2), torch.nan if value.is_floating_point() else 7)
    wide[..., 0] = value
    return wide[..., 0]


def _offset(value: Tensor) -> Tensor:
    longer = value.new_full((value.numel() + 3,), 5)
    longer[3:] = value.flatten()
    return longer[3:].view(value.shape)


def _expanded(value: Tensor) -> Tensor:
    return value[:1].expand(value.shape) if value.ndim and len(value) else value


#: Memory formats of a weight; the last changes its values.
FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v,
    "transposed": lambda v: _strided(v, list(range(v.ndim))[::-1]),
    "spread": _spread,
    "offset": _offset,
    "expanded": _expanded,
}


@torch.no_grad()
def _format(module: nn.Module, how: str, rng: random.Random) -> None:
    """Lay weights out otherwise, each with a chance."""
    for parameter in module.parameters():
        if rng.random() < 0.6:
            parameter.data = FORMATS[how](parameter.data)


#: Memory formats and types of x: what a user may hand over.
DATA_FORMATS = [
    "channels_last",
    "transposed",
    "spread",
    "expanded",
    "numpy",
    "reversed",
    "double",
    "grad",
    "int32",
]


def formatted(x: Tensor, how: str) -> Any:
    """x in one of the data formats, and the values that it has [N, ...]."""
    if how == "expanded":
        x = x[:1].expand(x.shape)
    elif how in FORMATS:
        x = FORMATS[how](x)
    elif x.dtype == torch.bfloat16 and how in ("numpy", "reversed"):  # numpy knows no such numbers
        return x
    elif how == "numpy":
        return x.numpy()
    elif how == "reversed":
        return x.flip(0).numpy()[::-1]
    elif how == "double" and x.is_floating_point():
        x = x.double()
    elif how == "int32" and not x.is_floating_point():
        x = x.int()
    elif how == "grad" and x.is_floating_point():
        x = x.clone().requires_grad_()
    return x
