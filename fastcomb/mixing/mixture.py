"""A mixture: the endless sequence of networks between (and around) two networks, or more."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastcomb.kernels import native
from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Endpoint, Theta, same
from fastcomb.mixing.ops import broadcastable, coefficients
from fastcomb.sampling.rules import encoded
from fastcomb.sampling.samplers import Granularity, Sampler
from fastcomb.sampling.stream import as_signed, step_unit
from fastcomb.utils.notice import notify
from fastcomb.utils.state_dicts import with_metadata

_WHOLE_MODEL = 0xFFFFFFFF
_INDICES = 1 << 64


@dataclass(frozen=True)
class Unit:
    """Where one parameter's draws come from in the stream.

    Attributes:
        number: the stream's unit word.
        count: draws used by the parameter.
        per_row: whether draw e serves row e along dimension 0.
    """

    number: int
    count: int
    per_row: bool

    @property
    def numbers(self) -> list[int]:
        """As the operators take it."""
        return [self.number, self.count, int(self.per_row)]


class Mixture:
    """θ(Λ) = θ_A + Λ ⊙ (θ_B − θ_A) with Λ drawn by a sampler: a random-access sequence of networks.

    Between more than two networks θ_1, …, θ_m it is Σ_j w_j ⊙ θ_j with weights drawn by
    :class:`~fastcomb.Dirichlet`, reached in m − 1 steps θ ← θ + λ_j ⊙ (θ_j − θ).

    Combination ``i`` is a pure function of ``(seed, i)``, for i in [0, 2**64): of nothing else, so any
    subset can be evaluated in any order on any machine, and no combination is ever stored.
    Coefficients are drawn and mixed in float32; parameters of other dtypes are rounded to float32 first
    and the result is rounded once to their dtype. Coefficients of exactly 0 and 1 give θ_A and θ_B.

    Args:
        theta_a: the first network: a module, a mapping of names to tensors, or a checkpoint's path (a file,
            an index of shards, or a folder with one of them). Its values are copied.
        theta_b: the second network, with the same parameters; or a list of all others.
        sampler: the law of Λ, from :mod:`fastcomb.sampling.samplers`.
        seed: integer in [0, 2**64).
        model: the module that the thetas are weights of; tells parameters from buffers where all
            thetas are mappings.

    Attributes:
        networks: what was read, by name: "theta_a" and "theta_b", or "theta_b[0]", "theta_b[1]", ….
        steps: laws of the coefficients, one for each network after the first.

    Raises:
        TypeError, ValueError: the endpoints do not match, hold NaN or infinite values, or an argument is
            outside its range.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> mix = fc.Mixture(a, b, fc.Uniform(), seed=7)
        >>> state = mix[17]  # the state dict of combination 17
        >>> list(state)
        ['0.weight', '0.bias', '2.weight', '2.bias']
        >>> lam = mix.coefficients(17)["0.weight"]
        >>> torch.allclose(state["0.weight"], torch.lerp(a[0].weight, b[0].weight, lam), atol=1e-6)
        True
    """

    def __init__(
        self,
        theta_a: Theta,
        theta_b: Theta | Sequence[Theta],
        sampler: Sampler,
        seed: int = 0,
        *,
        model: nn.Module | None = None,
    ) -> None:
        if isinstance(sampler, type) and issubclass(sampler, Sampler):
            raise TypeError(
                f"sampler is the class {sampler.__name__}; pass an instance, {sampler.__name__}(…)"
            )
        if not isinstance(sampler, Sampler):
            raise TypeError(
                f"sampler is a {type(sampler).__name__}; pass one of fastcomb's, such as Uniform()"
            )
        seed = operator.index(seed)
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed={seed} is outside [0, 2**64)")
        thetas = endpoints.labelled(theta_a, theta_b)
        self.sampler = sampler
        self.seed = seed
        self.steps = sampler.steps(len(thetas))
        structure = endpoints.structure(model, *thetas.values())
        self.networks: dict[str, Endpoint] = {
            label: endpoints.read(theta, structure, label) for label, theta in thetas.items()
        }
        for label, network in self.networks.items():
            endpoints.check_match(self.a, network, ("theta_a", label))
            endpoints.check_rigid(self.a, network, ("theta_a", label))
        self.units = _units(self.a.parameters, sampler.per)
        self.device = next(iter(self.a.parameters.values())).device
        tables = [step.table() for step in self.steps]
        self._tables = (tables[0][None] if len(tables) == 1 else torch.stack(tables)).to(self.device)
        self._rules = encoded([step.rule() for step in self.steps])
        ends = len(self.steps) > 1 or bool(((self._tables == 0) | (self._tables == 1)).any())
        self._draw = [seed & 0xFFFFFFFF, seed >> 32, sampler.bits, int(ends)]
        self._values = {name: self._copied(name) for name in self.a.parameters}
        self.networks = {
            label: dataclasses.replace(
                network,
                parameters={
                    name: _kept(value, self._values[name][0] if i == 0 else self._values[name][1][i - 1])
                    for name, value in network.parameters.items()
                },
                carried={n: v.clone() if isinstance(v, Tensor) else v for n, v in network.carried.items()},
            )
            for i, (label, network) in enumerate(self.networks.items())
        }
        if any(
            value.dtype == torch.float64 and not same(value, self._values[name][0])
            for name, value in self.a.parameters.items()
        ):
            notify("float64 parameters are rounded to float32, in which combinations are mixed")

    def _copied(self, name: str) -> tuple[Tensor, Tensor]:
        """A parameter of the first network and of the others [s, ...], float32, contiguous.

        Later changes of the networks do not reach the mixture.
        """
        a, *others = (
            network.parameters[name].detach().to(self.device, torch.float32).contiguous()
            for network in self.networks.values()
        )
        for label, before, other in zip([*self.networks][1:], (a, *others), others, strict=False):
            if not torch.isfinite(other - before).all():
                raise ValueError(
                    f"{name!r} of {label}, or its distance to the network before it, exceeds float32, in "
                    "which networks are mixed; rescale the weights"
                )
        return a.clone(), torch.stack(others)

    @property
    def a(self) -> Endpoint:
        """The first network, which gives buffers."""
        return self.networks["theta_a"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mixed parameters, in the model's order."""
        return tuple(self._values)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' own dtype if they share one, else float32."""
        return next(iter(self.a.parameters.values())).dtype if self.uniform else torch.float32

    @property
    def uniform(self) -> bool:
        """Whether all parameters have one dtype."""
        return len({value.dtype for value in self.a.parameters.values()}) == 1

    def to(self, device: torch.device) -> Self:
        """This mixture with its tensors on ``device``."""
        if device == self.device:
            return self
        moved = copy.copy(self)
        moved.device = device
        moved._tables = self._tables.to(device)
        moved._values = {n: (a.to(device), b.to(device)) for n, (a, b) in self._values.items()}
        return moved

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """State dict of one combination; buffers (running statistics too) are θ_A's."""
        one = self.index_tensor([index])[0]
        mixed = {n: self.parameter(n, one, p.dtype) for n, p in self.a.parameters.items()}
        state: dict[str, Tensor] = {}
        for name in self.a.state:
            first = self.a.aliases.get(name, name)
            if first in mixed:
                state[name] = mixed[first]
            else:
                carried = self.a.carried[first]
                state[name] = carried.clone() if isinstance(carried, Tensor) else carried
        return with_metadata(state, self.a.metadata)

    def coefficients(self, index: int) -> dict[str, Tensor]:
        """Λ of one combination: for each mixed parameter a float32 tensor of its shape.

        With m > 2 networks, the weights of all of them, [m, ...]: their sum is 1 up to rounding (m · 2⁻²⁴).

        Example:
            >>> lam = fc.Mixture(a, b, fc.Uniform(per="neuron"), seed=1).coefficients(7)
            >>> lam["0.weight"].shape
            torch.Size([8, 4])
            >>> torch.equal(lam["0.weight"][:, 0], lam["0.bias"])  # which a unit's weights and bias share
            True
        """
        one = self.index_tensor([index])
        fast = self.laws() if native.serves(self.device) else None
        result = {}
        for name, (a, _) in self._values.items():
            unit = self.units[name]
            steps = []
            for step, table in enumerate(self._tables):
                number = step_unit(unit.number, step)
                if fast:
                    lam = native.coefficients(int(index), fast[step], self.seed, number, unit.count)[None]
                else:
                    lam = coefficients(one, table, self.seed, number, unit.count, self.sampler.bits)
                lam = broadcastable(lam, a.shape, per_row=unit.per_row)
                steps.append(lam.expand(1, *a.shape)[0].clone())
            result[name] = steps[0] if len(steps) == 1 else _weights(steps)
        return result

    def parameter(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """One mixed parameter: shape ``index.shape + parameter.shape`` for an int64 index [] or [K]."""
        mixed: Tensor = torch.ops.fastcomb.mix(
            index,
            *self._values[name],
            *self.law_arguments,
            self.units[name].numbers,
            dtype,
        )
        return mixed

    @property
    def law_arguments(self) -> Laws:
        """The operators' arguments ``tables, rules, draw``."""
        return Laws(self._tables, self._rules, self._draw)

    def laws(self) -> list[Any]:
        """The steps as the compiled kernels take them; needs the extension, and this mixture on a CPU."""
        return native.laws(self.law_arguments)

    def values(self, name: str) -> tuple[Tensor, Tensor]:
        """One mixed parameter of the first network and of the others [s, ...], float32."""
        return self._values[name]

    def mixed(self, name: str) -> Mixed:
        """One mixed parameter as the kernels take it."""
        return Mixed(*self._values[name], self.units[name].numbers)

    def shape(self, name: str) -> torch.Size:
        """Shape of one mixed parameter."""
        return self._values[name][0].shape

    def index_tensor(self, indices: Iterable[int]) -> Tensor:
        """Combination indices as the int64 tensor [K] that the stream takes."""
        if isinstance(indices, range) and indices and 0 <= indices[0] <= indices[-1] < _INDICES:
            steps = torch.arange(len(indices), device=self.device) * indices.step
            return steps + as_signed(indices[0])  # wraps around as int64 does
        if isinstance(indices, Tensor):
            indices = indices.tolist()
        try:
            integers = [operator.index(index) for index in indices]
        except TypeError as error:
            raise TypeError(f"a combination's index is an int: {error}") from None
        outside = [i for i in integers if not 0 <= i < _INDICES]
        if outside:
            raise IndexError(f"combination index {outside[0]} is outside [0, 2**64)")
        return torch.tensor([as_signed(i) for i in integers], dtype=torch.int64, device=self.device)

    def __repr__(self) -> str:
        total = sum(a.numel() for a, _ in self._values.values())
        return (
            f"Mixture({self.sampler}, seed={self.seed}: {len(self.networks)} networks, "
            f"{len(self._values)} parameters, {total:,} entries)"
        )


def _kept(value: Tensor, copied: Tensor) -> Tensor:
    """A network's parameter as the mixture keeps it: what is mixed, where that has its dtype."""
    return copied if value.dtype == copied.dtype else value.detach().clone()


def _weights(steps: list[Tensor]) -> Tensor:
    """Weights [m, ...] of m networks from the coefficients of the m − 1 steps between them."""
    weights = [torch.ones_like(steps[0])]
    for lam in steps:
        weights = [weight * (1 - lam) for weight in weights] + [lam]
    return torch.stack(weights)


def _units(parameters: dict[str, Tensor], per: Granularity) -> dict[str, Unit]:
    """Where each parameter's coefficients come from: number of the stream's unit, and how many it draws."""
    modules = sorted({name.rpartition(".")[0] for name in parameters})
    module_rank = {module: rank for rank, module in enumerate(modules)}
    name_rank = {name: rank for rank, name in enumerate(sorted(parameters))}
    units = {}
    for name, value in parameters.items():
        owner = module_rank[name.rpartition(".")[0]]
        if per == "element":
            units[name] = Unit(name_rank[name], value.numel(), per_row=False)
        elif per == "neuron":
            units[name] = Unit(owner, value.shape[0] if value.ndim else 1, per_row=value.ndim > 0)
        elif per == "layer":
            units[name] = Unit(owner, 1, per_row=False)
        else:
            units[name] = Unit(_WHOLE_MODEL, 1, per_row=False)
    return units
