"""A sample input for a module whose input nobody gave."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_SIDES = (32, 28, 64, 224)
_BATCH = 2


def example_inputs(model: nn.Module) -> tuple[Tensor]:
    """A random input on which the module runs, guessed from its first layers.

    Tries what the first linear, convolutional or embedding layer takes: [2, features],
    [2, channels, side, side] for usual sides, [2, channels, length], [2, tokens].

    Raises:
        ValueError: the module runs on none of the guesses.
    """
    for guess in _guesses(model):
        try:
            with torch.no_grad():
                model(guess)
        except Exception:  # any failure just means: not this shape
            continue
        return (guess,)
    raise ValueError(
        f"no input shape could be guessed for {type(model).__name__}; pass a sample input (example=)"
    )


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """What each linear layer, convolution and embedding in turn would take, as an input."""
    generator = torch.Generator().manual_seed(0)
    like = next(model.parameters(), torch.zeros(()))

    def normal(*shape: int) -> Tensor:
        return torch.randn(_BATCH, *shape, generator=generator).to(like)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield normal(module.in_features)
            yield normal(8, module.in_features)
        elif isinstance(module, nn.Conv2d):
            for side in _SIDES:
                yield normal(module.in_channels, side, side)
        elif isinstance(module, nn.Conv1d):
            for side in _SIDES:
                yield normal(module.in_channels, side)
        elif isinstance(module, nn.Embedding):
            high = min(module.num_embeddings, 1 << 15)
            yield torch.randint(high, (_BATCH, 8), generator=generator).to(like.device)
