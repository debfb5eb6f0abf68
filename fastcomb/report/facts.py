"""What was run and on what: as rows of a table, and what of it differs between runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastcomb.report.entry import Entry
from fastcomb.report.markup import Markup, clean, code, data, digest, escaped, join, tag
from fastcomb.report.numbers import duration, percent, plain, rate
from fastcomb.utils.result import METRICS

_UNKNOWN = "not recorded"

#: Spans of combinations that are listed before the rest is only counted.
_LISTED = 3

#: Entries of the identity by the names that readers know.
_NAMES = {
    "stream": "stream version",
    "sampler.law": "sampler",
    "sampler.sha256": "tables of the sampler",
    "model.class": "model",
    "model.sha256": "structure of the model",
    "data.samples": "evaluation samples",
    "data.sha256": "data",
    "dtype": "compute dtype",
    "batch_norm.choice": "BatchNorm",
    "batch_norm.calibration": "calibration data",
    "decide": "question",
    "fastcomb": "version of fastcomb",
}


def state(entry: Entry) -> Markup:
    """Whether a run is complete, in a word or two."""
    done, requested = len(entry.sweep), entry.sweep.requested
    if done == requested:
        return tag("span", "complete", class_="status")
    share = f"{percent(done / requested)} done" if done else "empty"
    return tag("span", share, class_="status part")


def facts(entries: Sequence[Entry]) -> list[list[str]]:
    """Rows of a table: what is told, then one cell for each run."""
    told: dict[str, Callable[[Entry], str]] = {
        "state": state,
        "combinations": lambda e: join(
            data(len(e.sweep), f"{len(e.sweep):,}"), " of ", data(e.sweep.requested, f"{e.sweep.requested:,}")
        ),
        "indices": _spans,
        "evaluation time": lambda e: duration(e.sweep.seconds) if len(e.sweep) else "–",
        "combinations per second": lambda e: data(e.sweep.rate, rate(e.sweep.rate)),
        "ran on": _machines,
        "begun": lambda e: f"{e.created[:16].replace('T', ' ')} UTC" if e.created else _UNKNOWN,
        "networks": _networks,
        "the networks themselves": lambda e: join(*own(e)) or _UNKNOWN,
        "model": _model,
        "sampler": lambda e: code(e.experiment["sampler"]["law"]),
        "seed": lambda e: str(e.experiment["seed"]),
        "stream version": lambda e: str(e.experiment["stream"]),
        "data": _data,
        "loss": lambda e: _callable(e.experiment.get("loss", _UNKNOWN)),
        "other metrics": lambda e: _metrics(e.experiment.get("metrics", {})),
        "question": lambda e: str(e.decide) if e.decide else "none: all were measured",
        "compute dtype": lambda e: e.experiment.get("dtype", _UNKNOWN),
        "BatchNorm": _batch_norm,
        "version of fastcomb": lambda e: e.experiment.get("fastcomb", _UNKNOWN),
        "folder": lambda e: code(str(e.sweep.path)) if e.sweep.path else "in memory only",
        "files": lambda e: f"{len(e.parts):,}" if e.sweep.path else "–",
    }
    if not any(entry.decide for entry in entries):
        del told["question"]
    return [[name, *map(cell, entries)] for name, cell in told.items()]


def own(entry: Entry) -> list[Markup]:
    """Loss and accuracy of the networks themselves, in words; nothing where they are not known."""
    known = {metric: entry.own(metric) for metric in METRICS}
    said: list[Markup] = []
    for label in dict.fromkeys(label for values in known.values() for label in values):
        parts = [
            join(f"{metric} ", data(values[label], plain(values[label])))
            for metric, values in known.items()
            if label in values
        ]
        said.append(join("; " if said else "", f"{label}: ", Markup(", ".join(parts))))
    return said


def differences(entries: Sequence[Entry]) -> list[list[str]]:
    """Rows of a table: what of the experiments' identities differs, then its value in each run."""
    flat = [dict(_flat(entry.experiment)) for entry in entries]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = {}
    for name in names:
        values = [one.get(name, _UNKNOWN) for one in flat]
        if any(value != values[0] for value in values):
            rows[name] = [_short(value) for value in values]
    if "sampler.law" in rows:
        rows.pop("sampler.sha256", None)  # says no more than the law
    return [[_name(name), *cells] for name, cells in rows.items()]


def told_apart(entries: Sequence[Entry], *path: str) -> bool:
    """Whether something is recorded of several runs and differs."""
    values = []
    for entry in entries:
        value: Any = entry.experiment
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            values.append(value)
    return any(value != values[0] for value in values)


def _flat(value: Mapping[str, Any], name: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, item in value.items():
        path = f"{name}.{key}".lstrip(".")
        nested = isinstance(item, Mapping) and "callable" not in item and path != "decide"
        pairs += _flat(item, path) if nested else [(path, item)]
    return pairs


def _name(path: str) -> str:
    """What readers call an entry of the identity; networks go by their own names."""
    first, _, rest = path.partition(".")
    return _NAMES.get(path, rest if first == "networks" else path.replace(".", " "))


def _short(value: Any) -> Markup:
    if isinstance(value, Mapping) and "callable" in value:
        return _callable(value)
    if isinstance(value, Mapping):
        return escaped("{question} {metric} {level}, error {error}".format(**value))
    if isinstance(value, list):
        return join(*(join(" " if i else "", _short(item)) for i, item in enumerate(value))) or escaped(
            "none"
        )
    text = "none" if value is None else str(value)
    return digest(text) if _is_hash(text) else escaped(text)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _spans(entry: Entry) -> str:
    spans = [f"{start:,} to {stop - 1:,}" for start, stop in entry.sweep.rows.spans]
    more = f" and {len(spans) - _LISTED:,} more spans" if len(spans) > _LISTED else ""
    return "; ".join(spans[:_LISTED]) + more or "none"


def _machines(entry: Entry) -> str:
    machines = dict.fromkeys(
        "{backend} on {device}, {instructions}, {threads} threads".format(**part.about)
        for part in entry.parts
    )
    return "; ".join(machines) or entry.sweep.backend or "–"


def _networks(entry: Entry) -> Markup:
    pairs = entry.experiment["networks"].items()
    lines = [join(f"{name} ", digest(sha256)) for name, sha256 in pairs]
    return Markup(tag("br").join(lines))


def _model(entry: Entry) -> Markup:
    model = entry.experiment.get("model", {"class": _UNKNOWN})
    sha256 = join(" ", digest(model["sha256"])) if "sha256" in model else Markup()
    return join(model["class"], sha256)


def _data(entry: Entry) -> Markup:
    identity = entry.experiment["data"]
    sha256 = join(" ", digest(identity["sha256"])) if "sha256" in identity else Markup()
    return join(f"{identity['samples']:,} samples", sha256)


def _callable(value: Any) -> Markup:
    if not isinstance(value, Mapping):
        return escaped(str(value))
    sha256 = join(" ", digest(value["sha256"])) if value["sha256"] else Markup()
    return join(clean(value["callable"]), sha256)


def _metrics(metrics: Mapping[str, Any]) -> Markup:
    lines = [join(f"{name}: ", _callable(value)) for name, value in metrics.items()]
    return Markup(tag("br").join(lines)) or escaped("none")


def _batch_norm(entry: Entry) -> str:
    normalisation = entry.experiment.get("batch_norm")
    if normalisation is None:
        return _UNKNOWN
    if normalisation["choice"] is None:
        return "none in the model"
    count = len(normalisation["calibration"])
    return f"{normalisation['choice']}" + (f" on {count} batch{'es' if count > 1 else ''}" if count else "")
