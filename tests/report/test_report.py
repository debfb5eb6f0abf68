"""Reports: the page is whole, says what the sweep says, and stands by itself, whatever the runs are like."""

import dataclasses
import html
import json
import re
import shutil
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastcomb as fc
from fastcomb.analysis.comparison import compare
from fastcomb.models import MLP
from fastcomb.report import numbers, pictures, write
from fastcomb.report.entry import Entry
from fastcomb.report.markup import Markup, escaped
from fastcomb.report.style import COLOURS, SERIES
from fastcomb.sweep import parts
from fastcomb.sweep.rows import Held

VOID = {"meta", "br"}
HOSTILE = """<script>alert("1")</script> & 'x' $\\frac{ _\x00"""


class Page(HTMLParser):
    """A page, read strictly: elements that do not nest are errors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.open, self.elements, self.pieces = [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} is there twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag not in ("data", "span", "code", "text"):
            self.pieces.append(" ")

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("style", "desc"):
            self.pieces.append(text)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split()).replace("\xa0", " ")

    @property
    def numbers(self) -> set[str]:
        """Exact values behind the numbers that are shown."""
        return {attributes["value"] for tag, attributes in self.elements if tag == "data"}

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def brier(output, y):
    return ((output.softmax(-1) - F.one_hot(y, 5)) ** 2).sum(-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs in all states: whole, other, decided, partial, empty."""
    torch.manual_seed(0)
    a, b = MLP((7, 63, 3, 5)).eval(), MLP((7, 63, 3, 5)).eval()
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(100, 7, generator=generator), torch.randint(0, 5, (100,), generator=generator)
    path = tmp_path_factory.mktemp("runs")
    for n in (200, 600):
        fc.evaluate(a, b, fc.Uniform(), data=data, n=n, out=path / "whole")
        fc.evaluate(a, b, fc.Uniform(), data=data, n=n, out=path / "partial")
    options = {"data": data, "n": 300, "seed": 1, "metrics": {"brier": brier}}
    fc.evaluate(a, b, fc.Bernoulli(0.5), out=path / "other", **options)
    decide = fc.Below("loss", 1.65, error=0.1)
    fc.evaluate(a, b, fc.Uniform(), data=data, n=600, decide=decide, out=path / "decided")
    parts.listed(path / "partial/parts")[1].unlink()
    shutil.copytree(path / "partial", path / "empty", ignore=lambda *_: ["parts"])
    return path


@pytest.fixture
def held(pair, data):
    """A sweep in memory."""
    return fc.evaluate(*pair, fc.Uniform(), data=data, n=50)


def made_of(sweep: fc.Sweep, **columns) -> fc.Sweep:
    """A sweep in memory with other results."""
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in columns.items()}
    count = len(arrays["loss"])
    return dataclasses.replace(sweep, rows=Held([(0, count)], arrays), requested=count)


def written(runs, path: Path, **options) -> Page:
    """The page alone; pictures are drawn again for every file."""
    return Page(write(runs, path / "report.html", files=False, **options).page)


STATES = ["whole", "other", "decided", "partial", "empty"]


@pytest.fixture(scope="module")
def several(folder, tmp_path_factory):
    """One page about all of them."""
    report = write({name: folder / name for name in STATES}, tmp_path_factory.mktemp("out") / "report.html")
    return Page(report.page), report


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("whole", "600 combinations have a median loss of"),
        ("other", "Distribution function of the brier"),
        ("decided", "Of 600 combinations,"),
        ("partial", "200 of 600 combinations are done"),
        ("empty", "No results yet: none of the 600 combinations is done."),
    ],
)
def test_every_state_of_a_run_has_a_page(folder, tmp_path, name, said):
    page = written({"it": folder / name}, tmp_path)
    assert said in page.text
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) > 0
    sweep = fc.open_sweep(folder / name)
    assert f"{len(sweep)} of {sweep.requested}" in page.text
    assert ("complete" in page.text.split("What was run")[-1].split("combinations")[0]) == sweep.complete


class TestPage:
    def test_it_stands_by_itself(self, several):
        page, _ = several
        assert set(re.findall(r"https?://[^\s\"'<]+", page.source)) == {"http://www.w3.org/2000/svg"}
        assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
        assert not any("src" in attributes for _, attributes in page.elements)
        assert "@import" not in page.source
        assert len(page.source) < 1_000_000

    def test_ids_are_unique_and_all_references_are_met(self, several):
        page, _ = several
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(set(ids)) == len(ids) > 50
        meant = set(re.findall(r"url\(#([^)]*)\)", page.source))
        for _, attributes in page.elements:
            meant |= {
                name
                for key in ("aria-labelledby", "aria-describedby")
                for name in attributes.get(key, "").split()
            }
            if "href" in attributes:
                assert attributes["href"].startswith("#")
                meant.add(attributes["href"][1:])
        assert len(meant) > 20
        assert meant <= set(ids)

    def test_pictures_follow_the_theme_and_say_what_they_show(self, several):
        page, report = several
        assert len(page.all("svg")) == len(page.all("figcaption")) == len(report.pictures) / 2 == 8
        assert all(one["role"] == "img" and one["aria-labelledby"] for one in page.all("svg"))
        drawn = page.source.split("<svg", 1)[1].rsplit("</svg>", 1)[0]
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawn)) <= {"#000000"}
        assert "var(--s0)" in drawn

    def test_pictures_are_also_files(self, several, folder, tmp_path):
        _, report = several
        assert {path.parent for path in report.pictures} == {report.page.with_name("report_files")}
        for path in report.pictures:
            if path.suffix == ".png":
                assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
                assert struct.unpack(">2I", path.read_bytes()[16:24]) >= (900, 500)
            else:
                assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert write({"it": folder / "whole"}, tmp_path / "no.html", files=False).pictures == ()
        assert [path.name for path in tmp_path.iterdir()] == ["no.html"]

    def test_what_users_wrote_is_text(self, held, folder, tmp_path):
        weird = made_of(held, loss=held.loss, accuracy=held.accuracy, **{HOSTILE: held.loss})
        runs = {HOSTILE: weird, "_hidden\n漢字": folder / "decided", "$": held}
        report = write(runs, tmp_path / "<&'>.html", title=HOSTILE)
        page = Page(report.page)
        assert not page.all("script")
        shown = " ".join(HOSTILE.replace("\x00", "\ufffd").split())
        assert page.text.count(shown) > 10
        assert "\x00" not in page.source
        for path in report.pictures:
            if path.suffix == ".svg":
                ElementTree.parse(path)

    def test_writing_again_gives_the_same_bytes(self, folder, tmp_path):
        reports = [write({"it": folder / "decided"}, tmp_path / name / "report.html") for name in "ab"]
        for one, other in zip(*([report.page, *report.pictures] for report in reports), strict=True):
            assert one.read_bytes() == other.read_bytes()

    def test_large_runs_and_many_of_them_make_small_pages(self, held, tmp_path):
        generator = np.random.default_rng(0)
        large = made_of(
            held, loss=generator.lognormal(size=10**6), accuracy=generator.integers(0, 100, 10**6) / 100
        )
        page = written({"large": large}, tmp_path)
        assert len(page.source) < 200_000
        assert "logarithmic axis" in page.text
        none = np.full(60, np.nan)
        some = {f"{i}": made_of(held, loss=generator.lognormal(size=60), accuracy=none) for i in range(7)}
        page = written(some, tmp_path)
        assert len(page.source) < 500_000
        assert "21 pairs of runs: loss" in page.text
        assert {"class": "swatch s0 dashed", "aria-hidden": "true"} in page.all("span")


class TestNumbers:
    def test_they_are_those_of_the_sweep(self, folder, tmp_path):
        sweep = fc.open_sweep(folder / "whole")
        levels = {"accuracy": float(np.median(sweep.accuracy))}
        page = written({"it": folder / "whole"}, tmp_path, level=1.6, metric_levels=levels, confidence=0.9)
        found = [600, sweep.rate, *map(int, sweep.best(5))]
        for metric in ("loss", "accuracy"):
            density = sweep.density(metric)
            found += [density.mean, density.standard_error, density.quantile(0.0), density.quantile(1.0)]
            found += [float(sweep.values(metric)[i]) for i in sweep.best(5)]
            for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99):
                interval = density.quantile_interval(q, 0.9)
                found += [interval.value, interval.low, interval.high]
        below = sweep.fraction_below("loss", 1.6, 0.9)
        above = sweep.fraction_above("accuracy", levels["accuracy"], 0.9)
        for one in (below, above):
            found += [one.value, one.low, one.high]
        assert set(map(repr, found)) <= page.numbers
        assert f"{100 * below.value:.0f} %" in page.text
        assert "(90 % interval" in page.text
        assert f"fc.open_sweep('{folder}/whole', model=model).rebuild({sweep.best(1)[0]})" in page.text

    def test_what_was_run_is_that_of_the_manifest(self, folder, tmp_path):
        page = written({"it": folder / "other"}, tmp_path)
        experiment = json.loads((folder / "other/manifest.json").read_text())["experiment"]
        about = fc.open_sweep(folder / "other").rows.parts[0].about
        for said in (experiment["sampler"]["law"], experiment["data"]["sha256"][:12], about["instructions"]):
            assert said in page.text
        hashes = {one.get("title") for one in page.all("code")}
        assert {*experiment["networks"].values(), experiment["model"]["sha256"]} <= hashes
        assert "test_report.brier" in page.text

    def test_runs_are_compared(self, folder, several):
        page, _ = several
        whole, other = (fc.open_sweep(folder / name) for name in ("whole", "other"))
        found = compare(whole, other, labels=("whole", "other"))
        assert found.dominance in page.text
        for one in (found.wasserstein, found.mean_difference, found.median_difference):
            assert set(map(repr, (one.value, one.low, one.high))) <= page.numbers
        partial = compare(whole, fc.open_sweep(folder / "partial"), labels=("whole", "partial"))
        assert not partial.independent
        assert repr(partial.wasserstein.high) in page.numbers
        differs = page.text.split("What differs between the runs")[1].split("Pairs of runs")[0]
        assert "seed 0 1 0 0 0" in differs
        assert "Bernoulli" in differs
        assert "tables of the sampler" not in differs
        assert "dtype" not in differs

    def test_decided_runs(self, folder, tmp_path):
        sweep = fc.open_sweep(folder / "decided")
        page = written({"it": folder / "decided"}, tmp_path)
        fraction = sweep.fraction
        found = {fraction.value, fraction.low, fraction.high, sweep.saving, float(sweep.samples_taken.mean())}
        assert set(map(repr, found)) <= page.numbers
        assert "Best combinations" not in page.text
        assert f"{100 * fraction.value:.0f}" in page.text

    def test_every_column_is_read_once(self, folder, tmp_path, monkeypatch):
        read = []
        pieces = parts.Parts.pieces

        def counted(self, *names):
            read.extend(names)
            return pieces(self, *names)

        monkeypatch.setattr(parts.Parts, "pieces", counted)
        written({"it": folder / "other", "that": folder / "whole"}, tmp_path)
        assert sorted(read) == ["accuracy", "accuracy", "brier", "loss", "loss"]


class TestLevels:
    def test_cross_entropy_is_held_against_ln_2(self, folder, tmp_path):
        page = written({"it": folder / "whole"}, tmp_path)
        assert "The level 0.6931 of loss is ln 2" in page.text
        none = fc.open_sweep(folder / "whole").fraction_below("loss", np.log(2))
        assert none.value == 0
        assert "for none of them (at most" in page.text
        assert repr(none.high) in page.numbers

    def test_other_losses_are_held_against_the_best_run(self, pair, data, tmp_path):
        x, _ = data
        runs = {
            name: fc.evaluate(*pair, law, data=(x, torch.ones(100, 5)), n=200, loss="mse")
            for name, law in {"a": fc.Uniform(), "b": fc.Uniform(-1, 2)}.items()
        }
        page = written(runs, tmp_path)
        level = 2 * min(run.density("loss").quantile(0.01) for run in runs.values())
        assert "twice the 1 % quantile of the run that is best there" in page.text
        for run in runs.values():
            value = run.fraction_below("loss", level).value
            low, high = run.density("loss").band(np.nextafter(np.float32(level), np.float32(0)))
            assert {repr(value), repr(float(low)), repr(float(high))} <= page.numbers
        assert "accuracy" not in page.text

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metric_levels": {"speed": 1}}, "'speed' is none of accuracy, loss"),
            ({"level": float("nan")}, "the level nan of loss is not finite"),
            ({"confidence": 1}, "confidence=1 is outside"),
        ],
    )
    def test_what_cannot_be_asked(self, folder, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            written({"it": folder / "whole"}, tmp_path, **options)
        assert not list(tmp_path.iterdir())


class TestValues:
    @pytest.mark.parametrize(
        "columns",
        [
            {"loss": [1.5], "accuracy": [0.25]},
            {"loss": [2.0] * 30, "accuracy": [0.5] * 30},
            {"loss": [np.nan] * 9, "accuracy": [np.nan] * 9},
            {"loss": [0.5, np.inf, np.nan, -np.inf, 3.0], "accuracy": [0.1, 0.2, 0.3, 0.4, 0.5]},
            {"loss": [0.0, -1e30, 1e30], "accuracy": [1.0, 1.0, 0.0]},
            {"loss": [1e-20, 1e-10, 1e10], "accuracy": [np.nan] * 3},
        ],
    )
    def test_odd_ones(self, held, tmp_path, columns):
        page = written({"it": made_of(held, **columns), "that": held}, tmp_path)
        values = np.asarray(columns["loss"])
        lost = (~np.isfinite(values)).sum()
        assert ("values of loss are not finite" in page.text) == bool(lost)
        if lost:
            nan, infinite = np.isnan(values).sum(), np.isinf(values).sum()
            assert f"{lost} values of loss are not finite ({nan} NaN, {infinite} infinite)" in page.text

    def test_of_sweeps_that_are_not_on_disk(self, pair, data, tmp_path):
        until = fc.Precision("fraction_below", 1.6, half_width=0.1)
        sweep = fc.evaluate(*pair, fc.Uniform(), data=data, n=20_000, until=until)
        page = written({"it": sweep}, tmp_path)
        assert "the estimate that was waited for is" in page.text
        assert repr(sweep.estimate.high) in page.numbers
        assert "in memory only" in page.text
        assert f"sweep.rebuild({sweep.best(1)[0]})" in page.text

    def test_runs_on_other_data_are_told_apart(self, pair, data, folder, tmp_path):
        more = torch.cat([data[0]] * 2), torch.cat([data[1]] * 2)
        fc.evaluate(*pair, fc.Uniform(), data=more, n=50, out=tmp_path / "run")
        page = written({"a": folder / "whole", "b": tmp_path / "run"}, tmp_path)
        assert "The runs were evaluated on different data" in page.text


class TestNetworks:
    """The networks themselves, beside the combinations of them."""

    @staticmethod
    def own(pair, data):
        x, y = data
        with torch.no_grad():
            outputs = [model(x) for model in pair]
        losses = [F.cross_entropy(output, y).item() for output in outputs]
        return losses, [(output.argmax(1) == y).float().mean().item() for output in outputs]

    def test_they_are_told(self, pair, data, held, tmp_path):
        page = written({"it": held}, tmp_path)
        found = np.array([float(value) for value in page.numbers])
        for value in np.concatenate(self.own(pair, data)):
            assert np.isclose(found, value, rtol=1e-5).any()
        assert "the networks themselves have theta_a: loss 1." in page.text
        assert "the networks themselves theta_a: loss 1." in page.text.split("What was run")[-1]
        assert page.text.count("Dotted, in colour: the networks themselves.") == 2
        page = written({"it": held, "that": held}, tmp_path)
        assert "that: the networks themselves have theta_a: loss 1." in page.text
        assert "Dotted, in the colour of a run: the networks themselves." in page.text

    def test_they_are_in_the_picture_where_no_combination_comes_near(self, pair, data, held):
        far = made_of(held, loss=held.loss + 50, accuracy=held.accuracy)
        drawn = pictures.density("loss", [Entry.of("it", 0, far)], [])
        axis = drawn.figure.axes[0]
        dotted = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
        np.testing.assert_allclose(dotted, self.own(pair, data)[0], rtol=1e-5)
        low, high = axis.get_xlim()
        assert low < min(dotted) < float(far.loss.max()) < high

    def test_a_run_that_does_not_know_them(self, held, tmp_path, monkeypatch):
        unclear = tuple(dataclasses.replace(one, accuracy=float("nan")) for one in held.endpoints)
        monkeypatch.setattr(fc.Sweep, "endpoints", unclear)
        page = written({"it": held}, tmp_path)
        assert "the networks themselves have theta_a: loss 1." in page.text
        assert page.text.count("Dotted, in colour") == 1
        monkeypatch.setattr(fc.Sweep, "endpoints", ())
        page = written({"it": held}, tmp_path)
        assert "the networks themselves not recorded" in page.text
        assert "Dotted, in colour" not in page.text

    def test_they_are_in_the_sweeps_own_picture(self, pair, data, held, tmp_path, monkeypatch):
        figures = []
        monkeypatch.setattr(
            sys.modules["fastcomb.sweep.result"], "save", lambda figure, path: figures.append(figure) or path
        )
        held.plot(tmp_path / "x.png")
        for axis, values in zip(figures[0].axes, self.own(pair, data), strict=True):
            dotted = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
            np.testing.assert_allclose(dotted, values, rtol=1e-5)
            assert "(dotted: the networks themselves)" in axis.get_xlabel()


def test_what_is_missing_is_said(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="runs is empty"):
        write({}, tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match="is not a run"):
        write({"it": tmp_path}, tmp_path / "report.html")
    for package in ("matplotlib", "pyarrow"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=r"pip install 'fastcomb\[cli\]'"):
                write({"it": folder / "whole"}, tmp_path / "report.html")


def test_numbers_have_the_digits_that_their_intervals_leave():
    digits = numbers.Digits.of
    assert digits([0.40914], [0.00074])(0.40914) == "0.4091"
    assert digits([0.40914], [0.00023])(0.40914) == "0.40914"
    assert digits([2300.4], [31.0])(2300.4) == "2,300"
    assert digits([1.2345678])(1.2345678) == "1.235"
    assert digits([3e-9])(3e-9) == "3.000·10⁻⁹"
    assert digits([1e-3, 2.0], [1e-4, 0.01, 0.01])(1e-3) == "0.0010"
    assert digits([0.0])(0.0) == "0"
    assert digits([1.0])(-1.0) == "−1.000"
    assert [digits([1.0])(x) for x in (np.nan, np.inf, -np.inf)] == ["NaN", "∞", "−∞"]
    assert [numbers.duration(s) for s in (0.25, 12.34, 250, 12_000, 190_000)] == [
        *("0.25 s", "12.3 s", "4 min 10 s", "3 h 20 min", "2 d 4 h")
    ]
    assert [numbers.rate(r) for r in (0.1234, 80.66, 1974.2, np.nan)] == ["0.123", "80.7", "1,970", "–"]
    assert [numbers.percent(p) for p in (1e-9, 0.5, 0.99994, 1.0)] == ["0.01 %", "50 %", "99.99 %", "100 %"]
    assert [numbers.probability(p) for p in (0.0, 1e-9, 0.25)] == ["< 10⁻³⁰⁰", "1.0·10⁻⁹", "0.250"]
    assert [numbers.tick(x) for x in (0, 0.5, 20, 1e7, 2.5e-12)] == ["0", "0.5", "20", "10⁷", "2.5·10⁻¹²"]


def test_only_markup_is_not_escaped():
    assert escaped("<b>") == "&lt;b&gt;"
    assert escaped(Markup("<b>")) == "<b>"
    assert escaped("\x00\ud800") == "\ufffd\ufffd"


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_contrast(theme):
    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(COLOURS[one][theme]), luminance(COLOURS[other][theme])))
        return (high + 0.05) / (low + 0.05)

    assert min(contrast(name, "paper") for name in ("ink", "muted", "accent", "warn")) >= 4.5
    assert contrast("ink", "panel") >= 4.5
    assert min(contrast(f"s{i}", "paper") for i in range(SERIES)) >= 3


FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body><script>

for (const width of [380, 1280]) {{
  const frame = document.createElement("iframe");
  frame.style.cssText = `border: 0; height: 800px; width: ${{width}}px`;
  frame.onload = () => {{
    const root = frame.contentDocument.documentElement;
    document.body.dataset[`w${{width}}`] = `${{root.clientWidth}} ${{root.scrollWidth}}`;
  }};
  frame.srcdoc = {page};
  document.body.append(frame);
}}
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_nothing_is_wider_than_the_window(several, held, tmp_path):
    long = made_of(held, loss=held.loss, accuracy=held.accuracy, **{"m" * 90: held.loss})
    wordy = written({"x" * 120: long, "some words " * 20: held}, tmp_path)
    for page in (several[0], wordy):
        frames = tmp_path / "frames.html"
        frames.write_text(FRAMES.format(page=json.dumps(page.source).replace("</", "<\\/")), "utf-8")
        options = "--headless --no-sandbox --disable-gpu --virtual-time-budget=9000 --dump-dom".split()
        command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", frames.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for width in (380, 1280):
            found = re.search(rf'data-w{width}="(\d+) (\d+)"', html.unescape(done.stdout))
            assert found is not None
            assert int(found[1]) <= width
            assert int(found[2]) == int(found[1]), f"the page is {found[2]} wide in a window of {found[1]}"
