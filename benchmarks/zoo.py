"""What of the networks people bring runs on the engine, and whether it is right: docs/coverage.md.

    python -m benchmarks.zoo [--group by-hand transformers …] [--only NAME …] [--align] [--limit SECONDS]
                             [--json out/zoo.json] [--markdown docs/coverage.md]

One row for each network: two of them from random initialisation span a mixture, of which some combinations
are evaluated as a user would, and compared with the module itself in float64. Rows are written to the JSON
file as they come; started again with the same file, the script goes on with what is missing (networks that
--only names are tried again). Networks are tried in another process, so that a crash or a hang costs one row.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import platform
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm import tqdm

import fastcomb as fc
from benchmarks.architectures import Architecture, Group, architectures, missing
from benchmarks.table import cpu
from fastcomb.data.reading import as_samples
from fastcomb.program import Program, layers, private_copy
from fastcomb.program.choose import choose
from fastcomb.stitching.cut import severable
from fastcomb.utils import notice
from fastcomb.utils.inputs import Inputs

GROUPS: tuple[Group, ...] = get_args(Group)
#: Losses further than this from float64's are wrong.
TOLERANCE = 1e-5
#: Networks after which a process makes room for another, which begins with empty caches.
_AT_ONCE = 20

#: What the engine says of a network that it runs in parts, and the reference of its reason.
_PARTS = re.compile(r"the compiled kernels do not have (.+), which torch runs between them, in (\S+)% of")
_REASON = re.compile(r"the compiled kernels cannot run (.+)", re.DOTALL)

Row = dict[str, Any]


def row(one: Architecture, *, align: bool = False) -> Row:
    """What is found out about a network.

    Keys, of which those that were not reached are missing: ``name``, ``group``, ``parameters``, ``where``
    ("whole", "parts", "reference", or "failed"), ``apart`` (operations that torch runs beside the engine),
    ``nodes`` and ``nodes_apart`` (how many operations there are, and of these kinds), ``torch_share`` (of
    the time), ``why``, ``capture_s``, ``evaluate_s``, ``error``, ``groups``, ``units``, ``pins``, ``cuts``,
    ``cut_right`` and, with ``align``, ``align_s`` and ``recovered`` (share of planted permutations).
    """
    found: Row = {"name": one.name, "group": one.group}
    a, b = pair(one)
    found["parameters"] = sum(p.numel() for p in a.parameters())
    x = one.inputs(one.samples)
    program = None
    for measure in (_capture, _evaluate, _symmetries, _cuts, *([_recovery] if align else [])):
        try:
            program = measure(found, one, a, b, x, program) or program
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}".split("\n\n")[0].strip()
            found[f"fault_{measure.__name__[1:]}"] = (
                f"{text[:400]} ({Path(place.filename).name}:{place.lineno})"
            )
    found.setdefault("where", "failed")
    return found


def pair(one: Architecture) -> tuple[nn.Module, nn.Module]:
    """Two networks, of which no parameter is as initialisation leaves it (zeros and ones are special)."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = one.make().eval()
        for p in model.parameters():
            scale = p.detach().std() if p.numel() > 1 else p.new_zeros(())
            p.data += (0.05 * scale + 0.02) * torch.randn_like(p)
        made.append(model)
    return made[0], made[1]


def given(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call: x is a tensor, a tuple of arguments, or a dict of named ones."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (x if isinstance(x, tuple) else (x,)), {}


def called(model: nn.Module, x: Any) -> Any:
    """What a module returns."""
    args, kwargs = given(x)
    return model(*args, **kwargs)


def meant(one: Architecture, result: Any) -> Tensor:
    """The tensor that is judged."""
    if not isinstance(result, Tensor):
        name = one.output or "logits"
        result = result[name] if isinstance(result, Mapping) else getattr(result, name)
    assert isinstance(result, Tensor)
    return result


def targets(one: Architecture, output: Tensor) -> Tensor:
    """Random targets for an output."""
    generator = torch.Generator().manual_seed(3)
    if one.loss == "mse":
        return torch.randn(output.shape, generator=generator)
    if one.loss == "token_cross_entropy":
        return torch.randint(output.shape[-1], output.shape[:-1], generator=generator)
    return torch.randint(output.shape[1], (len(output), *output.shape[2:]), generator=generator)


def loss_of(one: Architecture, output: Tensor, y: Tensor) -> float:
    if one.loss == "mse":
        return float((output - y).square().mean())
    if one.loss == "token_cross_entropy":
        return float(F.cross_entropy(output.flatten(0, -2), y.flatten()))
    return float(F.cross_entropy(output, y))


def in_float64(one: Architecture, a: nn.Module, state: Mapping[str, Tensor], x: Any, y: Tensor) -> float:
    """The loss of one combination by plain torch in float64."""
    exact = copy.deepcopy(a).double()
    experts = getattr(getattr(exact, "config", None), "_experts_implementation", None)
    if experts is not None:  # grouped products have no float64
        exact.config._experts_implementation = "eager"  # type: ignore[union-attr]
    known = {name: widened(tensor) for name, tensor in state.items()}
    names: dict[int, list[str]] = {}
    for name, parameter in exact.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for tied in names.values():
        first = next((name for name in tied if name in known), None)
        known |= {} if first is None else dict.fromkeys(tied, known[first])
    args, kwargs = tree_map(widened, given(x))
    with torch.no_grad():
        result = torch.func.functional_call(exact, known, args, kwargs, tie_weights=False)
    return loss_of(one, meant(one, result), widened(y))


def widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _capture(found: Row, one: Architecture, a: nn.Module, b: nn.Module, x: Any, _: Any) -> Program:
    args, kwargs = given(x)
    samples = as_samples("x", Inputs(args, kwargs) if kwargs else x)
    copied = choose(private_copy(a).eval(), samples, one.output, default="obvious or tensors")
    began = time.perf_counter()
    with torch.no_grad():
        program = fc.capture(copied, *args, **kwargs)
    found["capture_s"] = time.perf_counter() - began
    found["nodes"] = len(program.nodes)
    return program


def _evaluate(found: Row, one: Architecture, a: nn.Module, b: nn.Module, x: Any, program: Any) -> None:
    with torch.no_grad():
        y = targets(one, meant(one, called(a, x)))
    options: dict[str, Any] = {"loss": one.loss, "output": one.output}
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in a.modules()):
        options["batch_norm"] = "a"
    if one.name in _BUFFERS:
        options["buffers"] = "a"
    notice.forget()
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=one.combinations, progress=False, **options)
    found["evaluate_s"] = time.perf_counter() - began
    said = [str(note.message) for note in caught if issubclass(note.category, fc.BackendNotice)]
    found |= said_of(sweep.backend, said, program)
    errors = []
    for number, loss in enumerate(sweep.loss.tolist()):
        exact = in_float64(one, a, sweep.mixture[number], x, y)
        errors.append(abs(exact - loss) / abs(exact))
    found["error"] = max(errors)


#: Networks with buffers that initialisation draws, and the mixture has to choose between.
_BUFFERS = {"spectral_norm"}


def said_of(backend: str, said: list[str], program: Program | None) -> Row:
    """Where a network ran, by the notices about it."""
    parts = next(filter(None, map(_PARTS.search, said)), None)
    if backend != "native":
        reason = next(filter(None, map(_REASON.search, said)), None)
        return {"where": "reference", "why": reason[1] if reason else "; ".join(said)}
    if parts is None:
        return {"where": "whole", "why": "; ".join(said)}
    apart = parts[1].split(", ")
    kinds = [n.label for n in program] if program else []
    shares = {"nodes_apart": sum(kind in apart for kind in kinds), "torch_share": float(parts[2]) / 100}
    return {"where": "parts", "apart": apart, "why": ""} | shares


def _symmetries(found: Row, one: Architecture, a: nn.Module, b: nn.Module, x: Any, program: Any) -> None:
    if program is None:
        return
    groups = fc.rebasin.symmetries(program)
    found["groups"], found["units"] = len(groups.groups), sum(group.size for group in groups.groups)
    reasons = [reason for reason in groups.pinned.values() if reason not in _NO_UNITS]
    found["pins"], found["pinned_by"] = len(reasons), Counter(reasons).most_common(3)


#: Why axes are pinned that no network could have units along.
_NO_UNITS = ("input of the network", "output of the network", "spatial")


def _cuts(found: Row, one: Architecture, a: nn.Module, b: nn.Module, x: Any, program: Any) -> None:
    """How many layers the network can be cut at, and whether the parts at the middle one are the network."""
    if program is None:
        return
    clean = [layer for layer in layers(program) if severable(program, layer)]
    found["cuts"] = len(clean)
    if not clean:
        return
    args, kwargs = given(x)
    middle = clean[len(clean) // 2].name
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = fc.stitching.cut(a, middle, *args, output=one.output, **kwargs)
        whole, joined = meant(one, called(a, x)), cut.top(called(cut.bottom, x))
        joined = joined if isinstance(joined, Tensor) else joined[0]
    found["cut_right"] = bool((whole - joined).abs().max() <= 1e-4 * whole.abs().max())


def _recovery(found: Row, one: Architecture, a: nn.Module, b: nn.Module, x: Any, program: Any) -> None:
    """Shuffle the network's units, align, and see how many parameters are where they were."""
    if program is None or not found.get("groups"):
        return
    groups = fc.rebasin.symmetries(program)
    shuffled = copy.deepcopy(a)
    shuffled.load_state_dict(groups.permute(a.state_dict(), groups.random(seed=5)), strict=False)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (x,) if isinstance(x, Tensor) else x
        alignment = fc.rebasin.align(a, shuffled, example=example, output=one.output, progress=False)
    found["align_s"] = time.perf_counter() - began
    aligned = dict(alignment.model.named_parameters())
    moved = [n for n, p in shuffled.named_parameters() if not torch.equal(p, a.get_parameter(n))]
    back = sum(torch.equal(aligned[name], a.get_parameter(name)) for name in moved)
    found["recovered"] = back / len(moved) if moved else 1.0


def work(pipe: multiprocessing.connection.Connection, align: bool) -> None:
    """Try the networks whose groups and names come through a pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process minds it
    known: dict[str, dict[str, Architecture]] = {}
    fc.capture(nn.Linear(2, 2), torch.zeros(2, 2))  # torch.export loads itself
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while (key := pipe.recv()) is not None:
            group, name = key
            one = known.setdefault(group, {one.name: one for one in architectures(group)})[name]
            try:
                found = row(one, align=align)
            except Exception as error:
                text = f"{type(error).__name__}: {str(error)[:300]}"
                found = {"name": name, "group": group, "where": "failed", "fault_make": text}
            found["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            pipe.send(found)


def rows(chosen: list[Architecture], *, align: bool, limit: float) -> Iterator[Row]:
    """Rows of networks, each within ``limit`` seconds, from processes that may crash."""
    context = multiprocessing.get_context("spawn")
    waiting = list(chosen)
    while waiting:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, align), daemon=True)
        process.start()
        there.close()
        try:
            here.recv()
            for _ in range(min(_AT_ONCE, len(waiting))):
                one = waiting.pop(0)
                here.send((one.group, one.name))
                lost: Row = {"name": one.name, "group": one.group, "where": "failed"}
                if not here.poll(limit):
                    yield lost | {"fault_evaluate": f"not done within {limit:.0f} s"}
                    break
                try:
                    found = here.recv()
                except EOFError:
                    process.join()
                    yield lost | {"fault_evaluate": f"the process ended with {process.exitcode}"}
                    break
                yield found
            else:
                here.send(None)
                process.join(10)
        finally:
            process.kill()
            process.join()
            here.close()


# -- what is written --------------------------------------------------------------------------------------


def markdown(record: Row) -> str:
    """The page: a summary for each group, then its rows."""
    known = {group: found for group in GROUPS if (found := _of(record, group))}
    installed = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [_HEAD, f"{record['date']}, {record['cpu']}; {installed}.", ""]
    lines += [f"| {' | '.join(_COUNTED)} |", "|---|" + "---:|" * (len(_COUNTED) - 1)]
    lines += [_summary(group, found) for group, found in known.items()]
    for group, found in known.items():
        lines += ["", f"## {group}", "", f"| {' | '.join(_TITLES)} |", "|---|---:|---:|---|" + "---:|" * 7]
        lines += map(_line, found)
    return "\n".join(lines) + "\n"


_HEAD = """# What runs where

As `python -m benchmarks.zoo --markdown docs/coverage.md` writes it; `--align` adds the recovery. Two
networks of each kind, from random initialisation and in small sizes, span a mixture, of which some
combinations are evaluated.

- **where**: on the compiled engine as a whole; in parts, with torch between for the operations that are
  named, their share of all operations and of the time; or on the torch reference, and why.
- **error**: of the losses, relative to plain torch in float64, the largest; "wrong" is above 1e-5.
- **capture**: seconds to capture the network.
- **groups**: of units that can be permuted, and how many **units** are in them; **pins**: axes of weights
  that cannot be permuted and are neither the network's input or output nor places in a kernel. **recovered**:
  the share of the parameters that a random permutation of all groups had moved and `align` brought back, bit
  for bit.
- **cuts**: layers at which the network falls into two parts; the parts at the middle one were compared with
  the network.
"""
_COUNTED = ("group", "networks", "whole", "in parts", "reference", "failed", "wrong", "cut", "recovered")
_TITLES = "network parameters operations where error capture groups units pins recovered cuts".split()


def _of(record: Row, group: str) -> list[Row]:
    return [found for found in record["rows"].values() if found["group"] == group]


def _summary(group: str, found: list[Row]) -> str:
    counts = Counter(one["where"] for one in found)
    wrong = sum(not one.get("error", 0.0) <= TOLERANCE for one in found)
    cut = sum(one.get("cut_right") is True for one in found)
    tried = [one for one in found if "recovered" in one or "fault_recovery" in one]
    back = sum(one.get("recovered") == 1.0 for one in tried)
    ways = [f"{counts[way]} ({counts[way] / len(found):.0%})" for way in ("whole", "parts", "reference")]
    shown = [len(found), *ways, counts["failed"], wrong, cut, f"{back} of {len(tried)}"]
    return f"| {group} | " + " | ".join(map(str, shown)) + " |"


def _line(found: Row) -> str:
    where = found["where"]
    if where == "parts":
        share = found["nodes_apart"] / found["nodes"] if found.get("nodes") else 0.0
        names = ", ".join(name.removeprefix("aten.") for name in found["apart"])
        shares = f"{share:.0%} of the operations, {found['torch_share']:.0%} of the time"
        where = f"in parts: torch runs {names} ({shares})"
    elif found.get("why"):
        where += f": {_short(found['why'])}"
    faults = [
        f"{key.removeprefix('fault_')}: {_short(text)}"
        for key, text in found.items()
        if key.startswith("fault_")
    ]
    cut = {True: "", False: " (differ)", None: ""}[found.get("cut_right")]
    cells = [
        found["name"],
        f"{found['parameters']:,}" if "parameters" in found else "",
        found.get("nodes", ""),
        "; ".join([where, *faults]),
        f"{found['error']:.0e}" if "error" in found else "",
        f"{found['capture_s']:.1f}" if "capture_s" in found else "",
        found.get("groups", ""),
        found.get("units", ""),
        found.get("pins", ""),
        f"{found['recovered']:.0%}" if "recovered" in found else "",
        f"{found['cuts']}{cut}" if "cuts" in found else "",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) < 160 else text[:157] + "…"


def versions() -> dict[str, str]:
    found = {"fastcomb": fc.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for name in ("torchvision", "timm", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What of the networks people bring runs on the engine.")
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks, again if they have rows")
    parser.add_argument("--align", action="store_true", help="also recover planted permutations (slow)")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a network")
    parser.add_argument("--json", type=Path, default=Path("out/zoo.json"), help="where rows are kept")
    parser.add_argument("--markdown", type=Path, help="also write the page to this file")
    options = parser.parse_args()

    record: Row = {"rows": {}}
    if options.json.exists():
        record = json.loads(options.json.read_text())
    record |= {"date": str(datetime.date.today()), "cpu": cpu(), "versions": versions()}
    chosen = []
    for group in options.group:
        for name in missing(group):
            print(f"{group} left out: {name} is not installed; pip install '.[zoo]'", file=sys.stderr)
        chosen += architectures(group)
    unknown = set(options.only or ()) - {one.name for one in chosen}
    if unknown:
        names = ", ".join(one.name for one in chosen)
        parser.error(f"no network is called {', '.join(sorted(unknown))}; there are {names}")
    keys = {f"{one.group}/{one.name}": one for one in chosen}
    asked = {
        key: one
        for key, one in keys.items()
        if (one.name in options.only if options.only else key not in record["rows"])
    }
    try:
        with tqdm(total=len(asked), disable=None, unit="net") as bar:
            for found in rows(list(asked.values()), align=options.align, limit=options.limit):
                record["rows"][f"{found['group']}/{found['name']}"] = found
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(record, indent=1) + "\n")
                bar.write(_line(found))
                bar.update()
    except KeyboardInterrupt:
        print(
            f"interrupted; {options.json} has what was found, and the same command goes on", file=sys.stderr
        )
    order = [key for key in keys if key in record["rows"]]
    record["rows"] = {key: record["rows"][key] for key in order} | record["rows"]
    if options.markdown:
        options.markdown.write_text(markdown(record))
    for group in GROUPS:
        if found_rows := _of(record, group):
            print(_summary(group, found_rows))


if __name__ == "__main__":
    main()
