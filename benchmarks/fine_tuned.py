"""Two fine-tuned Hugging Face classifiers: a loop as a user would write it, beside one call.

    python -m benchmarks.fine_tuned [--combinations 4000] [--looped 100]

A small BERT is trained twice from the same start on made-up sentences (is one word more frequent than
another?), then combinations are evaluated on 100 test sentences, in dict batches of a DataLoader: by a loop
over ``functional_call``, and by :func:`fastcomb.evaluate`. Both give the same losses and accuracies, or this
stops. Needs transformers.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import fastcomb as fc
from benchmarks.networks import declare_operators
from benchmarks.table import cpu

WORDS, TOKENS = 30, 16


def sentences(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Rows as a tokenizer gives them, padded to one length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, TOKENS), generator=generator)
    lengths = torch.randint(4, TOKENS + 1, (count, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).long()
    ids = ids * mask
    labels = ((ids == 5).sum(1) >= (ids == 6).sum(1)).long()
    return [
        {"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)
    ]


def fine_tuned(start: nn.Module, rows: list[dict[str, Tensor]], seed: int) -> nn.Module:
    """The network after two epochs."""
    torch.manual_seed(seed)
    model = copy.deepcopy(start).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(2):
        for batch in DataLoader(rows, batch_size=32, shuffle=True):  # type: ignore[arg-type]
            optimiser.zero_grad()
            model(**batch).loss.backward()
            optimiser.step()
    return model.eval()


@torch.no_grad()
def loop(model: nn.Module, mixture: fc.Mixture, data: DataLoader[Any], count: int) -> np.ndarray[Any, Any]:
    """Mean loss and accuracy of the first combinations, [count, 2]."""
    results = []
    for i in range(count):
        theta, loss, correct, seen = mixture[i], 0.0, 0, 0
        for batch in data:
            logits, labels = functional_call(model, theta, (), batch).logits, batch["labels"]
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        results.append((loss / seen, correct / seen))
    return np.array(results)


def main() -> None:
    parser = argparse.ArgumentParser(description="A loop over combinations beside one call.")
    parser.add_argument("--combinations", type=int, default=4000, help="of the call")
    parser.add_argument("--looped", type=int, default=100, help="of the loop")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    declare_operators()
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=TOKENS, num_labels=2,
    )  # fmt: skip
    start, train = transformers.BertForSequenceClassification(config), sentences(256, 0)
    a, b = (fine_tuned(start, train, seed) for seed in (1, 2))
    data: DataLoader[Any] = DataLoader(sentences(100, 1), batch_size=32)  # type: ignore[arg-type]
    mixture = fc.Mixture(a, b, fc.Uniform())

    began = time.perf_counter()
    expected = loop(a, mixture, data, options.looped)
    looped = (time.perf_counter() - began) / options.looped
    began = time.perf_counter()
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=options.combinations, progress=False)
    called = (time.perf_counter() - began) / options.combinations
    both = min(options.looped, options.combinations)
    np.testing.assert_allclose(sweep.loss[:both], expected[:both, 0], rtol=1e-5)
    np.testing.assert_allclose(sweep.accuracy[:both], expected[:both, 1], atol=1e-6)
    print(f"{cpu()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"loop over functional_call: {1e3 * looped:.1f} ms for a combination")
    print(f"fastcomb.evaluate ({sweep.backend}): {1e3 * called:.2f} ms, all told")
    print(f"{looped / called:.0f} times faster")


if __name__ == "__main__":
    main()
