"""Results on disk: what is written is what memory would hold, whatever happens on the way."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial

import duckdb
import numpy as np
import pandas
import polars
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastcomb as fc
from fastcomb.models import MLP, Tiny10
from fastcomb.sweep import parts
from fastcomb.sweep.rows import Collected, joined, missing, overlap


@pytest.fixture
def sweep(pair, data):
    """evaluate() on ``pair`` and ``data``, with its own defaults."""

    def call(**options):
        sampler = options.pop("sampler", fc.Uniform())
        return fc.evaluate(*pair, sampler, **{"data": data, "n": 500} | options)

    return call


def same(one: fc.Sweep, other: fc.Sweep) -> None:
    assert (one.index == other.index).all()
    for name in one.rows.names:
        np.testing.assert_array_equal(one.rows.column(name), other.rows.column(name))


def scaled(factor):
    def loss(logits, y):
        return factor * F.cross_entropy(logits, y, reduction="none")

    return loss


class TestRoundTrip:
    def test_a_run_holds_what_memory_would(self, sweep, tmp_path, backend):
        held = sweep(backend=backend)
        kept = sweep(backend=backend, out=tmp_path / "run", save_every=0)
        same(kept, held)
        opened = fc.open_sweep(tmp_path / "run")
        same(opened, held)
        assert opened.complete
        assert opened.backend == held.backend == backend
        assert opened.samples == held.samples == 100
        assert opened.summary().keys() == held.summary().keys()
        assert len(parts.listed(tmp_path / "run/parts")) > 1 or backend == "native"
        level = float(np.median(held.loss))
        for question in ("fraction_below", "fraction_above"):
            assert getattr(opened, question)("loss", level) == getattr(held, question)("loss", level)
        for metric in ("loss", "accuracy"):
            np.testing.assert_array_equal(opened.best(7, metric), held.best(7, metric))

    def test_the_opened_sweep_rebuilds_networks(self, sweep, pair, tmp_path):
        held = sweep(sampler=fc.Law(scipy.stats.truncnorm(-1, 1, loc=0.5)), seed=2**63 + 1, out=tmp_path)
        opened = fc.open_sweep(tmp_path, model=pair[0])
        best = opened.best(1)[0]
        for name, value in held.mixture[best].items():
            assert torch.equal(opened.mixture[best][name], value)
            assert torch.equal(opened.rebuild(best).state_dict()[name], value)
        with pytest.raises(ValueError, match="pass the module: open_sweep"):
            fc.open_sweep(tmp_path).rebuild(best)

    def test_with_recomputed_running_statistics(self, images, tmp_path):
        torch.manual_seed(0)
        a, b = Tiny10().eval(), Tiny10().eval()
        options = {"n": 3, "batch_norm": "recompute", "calibration": images[0]}
        ran = fc.evaluate(a, b, fc.Uniform(), data=images, out=tmp_path, **options)
        opened = fc.open_sweep(tmp_path, model=a, calibration=images[0])
        with torch.no_grad():
            loss = F.cross_entropy(opened.rebuild(1)(images[0]), images[1]).item()
        assert loss == pytest.approx(ran.loss[1], rel=1e-5)
        with pytest.raises(ValueError, match="calibration= is not what the run was calibrated on"):
            fc.open_sweep(tmp_path, model=a, calibration=images[0] + 1).rebuild(1)

    def test_three_networks_with_tied_weights_and_buffers(self, data, tmp_path):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(7, 7)
                self.second = nn.Linear(7, 7)
                self.second.weight = self.first.weight
                self.register_buffer("scale", torch.rand(7))
                self.head = nn.Linear(7, 5)

            def forward(self, x):
                return self.head(self.second(torch.relu(self.first(x))) * self.scale)

        torch.manual_seed(0)
        nets = [Tied().eval() for _ in range(3)]
        given = {"data": data, "n": 20, "out": tmp_path, "buffers": "lerp"}
        held = fc.evaluate(nets[0], nets[1:], fc.Dirichlet(2.0), **given)
        opened = fc.open_sweep(tmp_path, model=nets[0])
        state, wanted = opened.mixture[4], held.mixture[4]
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)

    def test_other_tools_read_the_parts(self, sweep, tmp_path):
        held = sweep(out=tmp_path, save_every=0, backend="torch_reference")
        mean = held.loss.mean(dtype=float)
        frame = pandas.read_parquet(tmp_path / "parts")
        assert list(frame.columns) == ["index", "loss", "accuracy"]
        assert (frame["index"].to_numpy() == held.index).all()
        assert frame["loss"].dtype == np.float32
        assert frame["loss"].to_numpy().mean(dtype=float) == mean
        lazy = polars.scan_parquet(tmp_path / "parts/*.parquet")
        assert lazy.select(polars.col("loss").cast(polars.Float64).mean()).collect().item() == pytest.approx(
            mean
        )
        query = f"SELECT count(*), avg(loss::DOUBLE) FROM '{tmp_path}/parts/*.parquet' WHERE index >= 0"
        assert duckdb.sql(query).fetchall() == [(500, pytest.approx(mean))]

    def test_further_metrics(self, sweep, pair, data, tmp_path):
        def margin(logits, y):
            right = logits.gather(1, y[:, None])[:, 0]
            return right - logits.scatter(1, y[:, None], -torch.inf).amax(1)

        kept = sweep(n=70, metrics={"margin": margin}, out=tmp_path)
        assert kept.metrics == ("loss", "accuracy", "margin")
        opened = fc.open_sweep(tmp_path)
        with torch.no_grad():
            wanted = margin(kept.rebuild(69)(data[0]), data[1]).mean().item()
        assert opened.values("margin")[69] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        assert opened.best(1, "margin", largest=True)[0] == opened.values("margin").argmax()
        np.testing.assert_allclose(kept.loss, sweep(n=70).loss, rtol=1e-5)
        with pytest.raises(ValueError, match="metrics: 'loss' cannot name a column"):
            sweep(metrics={"loss": margin})
        with pytest.raises(ValueError, match=r"metrics\['m'\]\(output, y\) returned \(\)"):
            sweep(metrics={"m": lambda logits, y: logits.mean()})

    def test_indices_beyond_63_bits(self, sweep, tmp_path):
        kept = sweep(start=2**64 - 30, n=30, out=tmp_path)
        opened = fc.open_sweep(tmp_path)
        assert opened.index.dtype == np.uint64
        assert int(opened.index[-1]) == 2**64 - 1
        same(opened, kept)


def halved(output, y):
    """A loss, or whatever else."""
    return torch.nn.functional.cross_entropy(output, y, reduction="none") / 2


class TestContinue:
    @pytest.mark.parametrize("backend", ["native", "torch_reference"])
    def test_ranges_add_up_in_any_order(self, sweep, tmp_path, backend):
        whole = sweep(backend=backend)
        for start, n in ((200, 100), (0, 50), (450, 50), (30, 300), (0, 500)):
            some = sweep(start=start, n=n, out=tmp_path, backend=backend)
            assert some.complete
            np.testing.assert_array_equal(some.loss, whole.loss[start : start + n])
        same(fc.open_sweep(tmp_path), whole)
        assert pandas.read_parquet(tmp_path / "parts")["index"].is_unique

    def test_what_is_there_is_not_evaluated_again(self, sweep, tmp_path):
        sweep(n=300, out=tmp_path)
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir()}
        sweep(n=300, out=tmp_path)
        assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir()}
        longer = sweep(n=400, out=tmp_path)
        assert longer.complete
        assert (
            before.items() <= {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir()}.items()
        )

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 1}, "seed is 0 there and 1 here"),
            ({"sampler": fc.Bernoulli(0.25)}, "sampler.law"),
            ({"loss": halved}, 'loss is "cross_entropy" there and {"callable"'),
            ({"accuracy": halved}, 'accuracy is null there and {"callable"'),
            ({"dtype": torch.bfloat16}, 'dtype is "float32" there and "bfloat16" here'),
            ({"data": (torch.zeros(100, 7), torch.zeros(100, dtype=torch.long))}, "data.sha256"),
            ({"metrics": {"m": lambda o, y: o[:, 0]}}, r'columns is \["loss", "accuracy"\] there'),
        ],
    )
    def test_another_experiment_is_an_error_that_names_the_difference(self, sweep, tmp_path, change, named):
        sweep(n=20, out=tmp_path)
        with pytest.raises(ValueError, match=named):
            sweep(n=20, out=tmp_path, **change)
        assert fc.open_sweep(tmp_path).complete

    def test_losses_that_hold_something_else_are_others(self, sweep, tmp_path):
        for i, (one, other) in enumerate(
            [
                (
                    nn.CrossEntropyLoss(reduction="none"),
                    nn.CrossEntropyLoss(reduction="none", label_smoothing=0.9),
                ),
                (partial(F.cross_entropy, reduction="none"), partial(F.nll_loss, reduction="none")),
                (scaled(1.0), scaled(2.0)),
            ]
        ):
            sweep(n=20, loss=one, out=tmp_path / str(i))
            assert sweep(n=30, loss=one, out=tmp_path / str(i)).complete
            with pytest.raises(ValueError, match=r"loss.sha256 is .* there"):
                sweep(n=20, loss=other, out=tmp_path / str(i))

    def test_modules_that_compute_something_else_are_others(self, data, tmp_path):
        class Scaled(nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.linear, self.factor = nn.Linear(7, 5), factor

            def forward(self, x):
                return self.linear(x) * self.factor

        one, other = Scaled(1.0), Scaled(3.0)
        weights = one.state_dict(), Scaled(1.0).state_dict()
        fc.evaluate(*weights, fc.Uniform(), model=one, data=data, n=20, out=tmp_path)
        with pytest.raises(ValueError, match=r"model.sha256 is .* there"):
            fc.evaluate(*weights, fc.Uniform(), model=other, data=data, n=20, out=tmp_path)

    @pytest.mark.filterwarnings("ignore:the pilot alone evaluates")
    def test_equal_numbers_are_equal_whatever_their_type(self, sweep, tmp_path):
        for level in (1, 1.0, np.float32(1)):
            assert sweep(n=20, decide=fc.Below("loss", level, 0.3), out=tmp_path).complete
        assert len(list((tmp_path / "parts").iterdir())) == 1

    def test_a_shuffled_loader_cannot_be_continued(self, sweep, data, tmp_path):
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 10, shuffle=True)
        with pytest.raises(ValueError, match="pass shuffle=False with out="):
            sweep(data=loader, out=tmp_path)

    def test_other_networks_too(self, sweep, pair, data, tmp_path):
        sweep(n=20, out=tmp_path)
        torch.manual_seed(9)
        with pytest.raises(ValueError, match=r"networks.theta_b is .* there") as error:
            fc.evaluate(pair[0], MLP((7, 63, 3, 5)).eval(), fc.Uniform(), data=data, n=20, out=tmp_path)
        assert "theta_a" not in str(error.value)

    def test_an_interrupted_run_keeps_what_was_computed(self, sweep, tmp_path):
        calls = itertools.count(1)

        def loss(logits, y):
            if next(calls) == 200:
                raise KeyboardInterrupt
            return F.cross_entropy(logits, y, reduction="none")

        with pytest.warns(fc.BackendNotice, match=r"interrupted: \d+ of 300 .* the same call continues"):
            some = sweep(n=300, loss=loss, out=tmp_path, backend="torch_reference")
        assert 0 < len(some) < 300
        assert not some.complete
        assert not fc.open_sweep(tmp_path).complete
        done = sweep(n=300, loss=loss, out=tmp_path, backend="torch_reference")
        np.testing.assert_allclose(done.loss, sweep(n=300).loss, rtol=1e-5)

    def test_an_error_in_the_middle_keeps_what_was_computed(self, sweep, tmp_path):
        calls = []

        def loss(logits, y):
            calls.append(1)
            if len(calls) == 200:
                raise ArithmeticError("no more")
            return F.cross_entropy(logits, y, reduction="none")

        with pytest.raises(ArithmeticError, match="no more"):
            sweep(n=300, loss=loss, out=tmp_path, backend="torch_reference")
        assert 0 < len(fc.open_sweep(tmp_path)) < 300


CHILD = """
    import os, signal, sys, torch
    import fastcomb as fc
    from fastcomb.models import MLP
    torch.set_num_threads(1)
    torch.manual_seed(0)
    a, b = MLP((7, 63, 3, 5)).eval(), MLP((7, 63, 3, 5)).eval()
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(100, 7, generator=generator), torch.randint(0, 5, (100,), generator=generator)
    options = {"data": data, "out": sys.argv[1], "save_every": 0, "backend": "torch_reference"}
"""
# Dies at a step of writing; each file takes three: to disk, to its name, its folder to disk.
KILLED = (
    CHILD
    + """
    left = int(sys.argv[2])

    def deadly(step):
        def taken(*arguments):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)
        return taken

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    fc.evaluate(a, b, fc.Uniform(), n=600, **options)
    print("complete", flush=True)
"""
)
# Waits in the middle of its work until its input ends.
WAITING = (
    CHILD
    + """
    calls = 0

    def loss(logits, y):
        global calls
        calls += 1
        if calls == 200:
            print("in the middle", flush=True)
            sys.stdin.read()
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")

    fc.evaluate(a, b, fc.Uniform(), n=500, loss=loss, **options)
"""
)


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_any_step_of_writing_nothing_is_lost_or_doubled(pair, data, tmp_path):
    """Kill −9 for real, by turns at every kind of step, until the run is complete.

    benchmarks/reliability.py does it fifty times at random moments.
    """
    run, done, killed, complete = tmp_path / "run", 0, [], False
    # three steps for each file: the networks', the manifest's and, once these two are there, the parts'
    for steps in (2, 5, 7, 8, 3, 10**6):
        process = start(KILLED, run, steps)
        complete = process.communicate()[0] == "complete\n"
        killed.append(process.returncode == -signal.SIGKILL)
        if not (run / "manifest.json").exists():
            continue
        opened = fc.open_sweep(run)
        assert len(opened) >= done  # what was written stays
        done = len(opened)
        frames = [pandas.read_parquet(path) for path in parts.listed(run / "parts")]
        if frames:
            assert pandas.concat(frames)["index"].is_unique
    assert killed == [True] * 5 + [False]
    assert complete
    held = fc.evaluate(*pair, fc.Uniform(), data=data, n=600, backend="torch_reference")
    same(fc.open_sweep(run), held)
    assert not list((run / "parts").glob(".*"))


class TestFaults:
    def test_a_second_writer_is_refused(self, sweep, tmp_path):
        """It comes while the first one computes the loss of its 200th combination."""
        calls = itertools.count(1)

        def loss(logits, y):
            if next(calls) == 200:
                with pytest.raises(RuntimeError, match="another process is writing to"):
                    sweep(out=tmp_path)
                assert 0 < len(fc.open_sweep(tmp_path)) < 300  # reading is fine
            return F.cross_entropy(logits, y, reduction="none")

        assert sweep(n=300, loss=loss, out=tmp_path, save_every=0, backend="torch_reference").complete
        assert next(calls) > 200

    @pytest.mark.slow
    def test_another_process_that_writes_is_refused(self, sweep, tmp_path):
        process = start(WAITING, tmp_path / "run")
        assert process.stdout.readline() == "in the middle\n"
        with pytest.raises(RuntimeError, match="another process is writing to"):
            sweep(out=tmp_path / "run")
        assert 0 < len(fc.open_sweep(tmp_path / "run")) < 500  # reading is fine
        process.communicate()  # its input ends
        assert process.returncode == 0
        assert fc.open_sweep(tmp_path / "run").complete

    @pytest.mark.parametrize("keep", [0, 3, 200, -1])
    def test_a_truncated_part_is_an_error_to_read_and_computed_anew(self, sweep, tmp_path, keep):
        sweep(n=200, out=tmp_path)
        whole = sweep(n=300, out=tmp_path)
        victim = parts.listed(tmp_path / "parts")[0]
        victim.write_bytes(victim.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"part-0+-0+200.parquet is damaged.*Evaluating again"):
            fc.open_sweep(tmp_path)
        with pytest.warns(fc.BackendNotice, match="set aside as part-.*damaged, computing it anew"):
            again = sweep(n=300, out=tmp_path)
        same(again, whole)
        same(fc.open_sweep(tmp_path), whole)

    def test_flipped_bits_are_found_when_read(self, sweep, tmp_path):
        sweep(n=2000, out=tmp_path)
        victim = parts.listed(tmp_path / "parts")[0]
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)
        opened = fc.open_sweep(tmp_path)
        with pytest.raises(ValueError, match=r"is damaged .* delete it and evaluate again"):
            list(opened.rows.pieces("index", *opened.rows.names))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m["experiment"].update(seed=3), "its digest does not fit"),
            (lambda m: m["columns"].reverse(), "its digest does not fit"),
            (lambda m: m.update(digest="0"), "its digest does not fit"),
            (lambda m: m.update(format="other"), "its format is 'other'"),
            (lambda m: m.pop("experiment"), "'experiment' is missing"),
            (lambda m: m.update(requested=[[5, 5]]), "no spans of combinations"),
        ],
    )
    def test_a_manifest_edited_by_hand(self, sweep, tmp_path, change, message):
        sweep(n=20, out=tmp_path)
        path = tmp_path / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        for call in (lambda: fc.open_sweep(tmp_path), lambda: sweep(n=20, out=tmp_path)):
            with pytest.raises(ValueError, match=message):
                call()

    def test_a_manifest_edited_to_fit_does_not_fit_the_parts(self, sweep, tmp_path):
        sweep(n=20, out=tmp_path)
        sweep(n=20, seed=1, out=tmp_path / "other")
        (tmp_path / "manifest.json").write_bytes((tmp_path / "other/manifest.json").read_bytes())
        for call in (lambda: fc.open_sweep(tmp_path), lambda: sweep(n=20, seed=1, out=tmp_path)):
            with pytest.raises(ValueError, match="holds results of another experiment"):
                call()

    def test_a_torn_manifest_and_a_missing_one(self, sweep, tmp_path):
        sweep(n=20, out=tmp_path)
        path = tmp_path / "manifest.json"
        path.write_text(path.read_text()[:-30])
        with pytest.raises(ValueError, match="cannot be trusted"):
            fc.open_sweep(tmp_path)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"is not a run: it has no manifest.json"):
            fc.open_sweep(tmp_path)
        with pytest.raises(ValueError, match="has results but no manifest"):
            sweep(n=20, out=tmp_path)

    def test_parts_that_overlap(self, sweep, tmp_path):
        sweep(n=20, out=tmp_path / "one")
        sweep(start=10, n=20, out=tmp_path / "two")
        for part in parts.listed(tmp_path / "two/parts"):
            part.rename(tmp_path / "one/parts" / part.name)
        with pytest.raises(ValueError, match="hold the same combinations; delete one"):
            fc.open_sweep(tmp_path / "one")

    def test_folders_that_cannot_be_written(self, sweep, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"cannot write results to .*; choose a folder that can be written"):
            sweep(out=tmp_path / "file")
        with pytest.raises(OSError, match=r"cannot write results to .*; choose a folder that can be written"):
            sweep(out="/proc/fastcomb")

    def test_a_disk_that_is_full(self, sweep, tmp_path, monkeypatch):
        """As the system says it; benchmarks/reliability.py fills a real one."""
        sweep(n=100, out=tmp_path)
        sweep(n=300, out=tmp_path)
        parts.listed(tmp_path / "parts")[1].unlink()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left on device; 100 combinations are safe there"):
                sweep(n=300, out=tmp_path)
            with pytest.raises(OSError, match="No space left on device; nothing was lost"):
                sweep(n=400, out=tmp_path)
        assert len(fc.open_sweep(tmp_path)) == 100
        same(sweep(n=300, out=tmp_path), sweep(n=300))

    def test_a_folder_of_other_things(self, sweep, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ValueError, match=r"holds 'notes.txt' and is no run"):
            sweep(out=tmp_path)

    def test_numbers_that_are_none(self, sweep):
        assert len(sweep(n=1e2)) == 100
        with pytest.raises(TypeError, match=r"n=1.5 is not an integer"):
            sweep(n=1.5)
        with pytest.raises(ValueError, match="level is NaN"):
            sweep(n=5).fraction_below("loss", float("nan"))
        with pytest.raises(TypeError, match="metrics is a list"):
            sweep(n=5, metrics=["top5"])

    def test_save_every_must_be_a_time(self, sweep, tmp_path):
        with pytest.raises(ValueError, match="save_every=-1"):
            sweep(out=tmp_path / "run", save_every=-1)
        assert not (tmp_path / "run").exists()


class TestMerge:
    def test_shards_become_one_run(self, sweep, tmp_path):
        whole = sweep()
        for i, start in enumerate(range(0, 500, 125)):
            sweep(start=start, n=125, out=tmp_path / f"job-{i}")
        merged = fc.merge(sorted(tmp_path.glob("job-*")), tmp_path / "all")
        same(merged, whole)
        assert merged.complete
        assert merged.seconds == pytest.approx(sum(fc.open_sweep(p).seconds for p in tmp_path.glob("job-*")))
        assert len(parts.listed(tmp_path / "all/parts")) == 1
        same(fc.merge([tmp_path / "all", tmp_path / "job-2"], tmp_path / "all2"), whole)
        same(sweep(out=tmp_path / "all"), whole)

    def test_runs_of_different_experiments_or_results_are_refused(self, sweep, tmp_path):
        sweep(n=30, out=tmp_path / "a")
        sweep(n=30, seed=1, out=tmp_path / "b")
        with pytest.raises(ValueError, match=r"seed is 1 there and 0 here"):
            fc.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
        columns = fc.open_sweep(tmp_path / "a")
        wrong = {"loss": columns.loss + 1, "accuracy": columns.accuracy}
        sweep(start=30, n=1, out=tmp_path / "c")
        about = fc.open_sweep(tmp_path / "c").rows.parts[0].about
        parts.write(tmp_path / "c/parts", 0, wrong, about)
        with pytest.raises(ValueError, match="disagree about loss of combinations 0 to 29"):
            fc.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "all")
        with pytest.raises(ValueError, match="disagree about loss of combinations 0 to 29"):
            fc.merge([tmp_path / "a"], tmp_path / "c")
        with pytest.raises(TypeError, match="is one folder; pass a list"):
            fc.merge(str(tmp_path / "a"), tmp_path / "all")
        with pytest.raises(ValueError, match="is one of the runs; merge them into another"):
            fc.merge([tmp_path / "a"], tmp_path / "a")
        with pytest.raises(ValueError, match="runs is empty"):
            fc.merge([], tmp_path / "all")
        assert not (tmp_path / "all").exists()


class TestUntil:
    level = 1.655

    def test_it_stops_when_the_interval_is_narrow_enough(self, sweep, tmp_path, backend):
        until = fc.Precision("fraction_below", self.level, half_width=0.05)
        found = sweep(n=100_000, until=until, backend=backend)
        assert found.complete
        assert 1000 <= len(found) < 100_000
        assert found.estimate.half_width <= 0.05
        assert found.estimate.value == found.fraction_below("loss", self.level).value
        assert found.estimate.low < found.fraction_below("loss", self.level).low
        kept = sweep(n=100_000, until=until, backend=backend, out=tmp_path)
        same(kept, found)
        assert kept.estimate == found.estimate
        opened = fc.open_sweep(tmp_path)
        assert opened.complete
        assert opened.estimate == found.estimate
        same(sweep(n=100_000, until=until, backend=backend, out=tmp_path), found)  # nothing left to do
        finer = fc.Precision("fraction_below", self.level, half_width=0.03)
        assert sweep(n=100_000, until=finer, backend=backend, out=tmp_path).estimate.half_width <= 0.03

    def test_a_mean_and_an_end_that_comes_first(self, sweep):
        until = fc.Precision("mean", half_width=0.002, metric="accuracy")
        found = sweep(n=200_000, until=until)
        assert found.estimate.half_width <= 0.002
        assert found.estimate.value == pytest.approx(found.accuracy.mean(dtype=float))
        short = sweep(n=1500, until=fc.Precision("mean", half_width=1e-6))
        assert len(short) == 1500
        assert short.estimate.half_width > 1e-6
        assert "estimate low" in str(short)

    def test_what_cannot_be_waited_for(self, sweep):
        with pytest.raises(ValueError, match="metric='speed' is none of loss, accuracy"):
            sweep(until=fc.Precision("mean", half_width=1, metric="speed"))
        with pytest.raises(TypeError, match="until is a float"):
            sweep(until=0.1)
        with pytest.raises(ValueError, match="until= looks at values, which decide= does not"):
            sweep(until=fc.Precision("mean", half_width=1), decide=fc.Below("loss", 1))


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple), max_size=6)


def members(spans):
    return {i for start, stop in spans for i in range(start, stop)}


@settings(max_examples=200, deadline=None)
@given(spans, spans, st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple))
def test_spans_are_sets(one, other, wanted):
    assert members(joined(one)) == members(one)
    assert all(a[1] < b[0] for a, b in zip(joined(one), joined(one)[1:], strict=False))
    assert members(missing(wanted, one)) == members([wanted]) - members(one)
    assert members(overlap(one, other)) == members(one) & members(other)


@settings(max_examples=100, deadline=None)
@given(st.permutations([(0, 3), (3, 4), (4, 9), (20, 25), (25, 26)]), st.integers(0, 5))
def test_columns_fill_in_any_order(order, taken):
    collected = Collected([(0, 9), (20, 26)])
    for start, stop in order[:taken]:
        collected.add(start, {"loss": np.arange(start, stop, dtype=np.float32)})
    rows = collected.rows((0, 30))
    assert rows.index.tolist() == sorted(members(order[:taken]))
    if taken:
        assert rows.column("loss").tolist() == rows.index.tolist()


def test_samplers_as_text():
    laws = [
        fc.Uniform(-0.25, 1.25, per="neuron"),
        fc.Bernoulli(0.3, bits=32),
        fc.Beta(2, 5),
        fc.Normal(),
        fc.Constant(0.5, per="model"),
        fc.Dirichlet((1.0, 2.0, 0.5)),
        fc.Law(scipy.stats.truncnorm(-1, 1, loc=0.5, scale=0.2)),
    ]
    for law in laws:
        assert repr(fc.parse_sampler(repr(law))) == repr(law)
    assert fc.parse_sampler("Uniform") == fc.Uniform()
    for wrong in (
        "",
        "Unform()",
        "__import__('os')",
        "Uniform(open('x'))",
        "Uniform(1, 0)",
        "Law(sum(1))",
        "1 + 1",
    ):
        with pytest.raises(ValueError, match="is not a sampler"):
            fc.parse_sampler(wrong)
