"""Sweeps on a real Ray cluster of this machine, with processes that die."""

import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastcomb as fc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # Ray's own announcements
]
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two processes at work, whatever the machine has, of which none is ended where memory is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(num_cpus=2, object_store_memory=100 << 20, **quiet)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)
        ray.shutdown()


def same(one, other):
    np.testing.assert_array_equal(one.index, other.index)
    for name in one.rows.names:
        np.testing.assert_array_equal(one.rows.column(name), other.rows.column(name))


@pytest.mark.parametrize("backend", ["native", "torch_reference"])
def test_the_same_call_gives_the_same_bits(pair, data, tmp_path, backend):
    options = {"data": data, "n": 3000, "start": 17, "backend": backend}
    here = fc.evaluate(*pair, fc.Uniform(), **options)
    there = fc.evaluate(*pair, fc.Uniform(), engine="ray", **options)
    kept = fc.evaluate(*pair, fc.Uniform(), engine=fc.Ray(), out=tmp_path, save_every=0, **options)
    same(there, here)
    same(kept, here)
    same(fc.open_sweep(tmp_path), here)
    assert kept.complete
    assert len(kept.rows.parts) > 1
    assert kept.backend == backend


@pytest.mark.filterwarnings("ignore:the pilot alone evaluates")
def test_decisions(pair, data):
    options = {"data": data, "n": 500, "decide": fc.Below("loss", 1.65, 0.1)}
    same(
        fc.evaluate(*pair, fc.Uniform(), engine="ray", **options), fc.evaluate(*pair, fc.Uniform(), **options)
    )


def test_a_process_killed_in_the_middle_is_retried(pair, data, tmp_path):
    def loss(logits, y):
        if ray.get_runtime_context().worker.mode == ray.WORKER_MODE and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return F.cross_entropy(logits, y, reduction="none")

    options = {"data": data, "n": 400, "loss": loss}
    there = fc.evaluate(*pair, fc.Uniform(), engine="ray", out=tmp_path / "run", **options)
    assert (tmp_path / "killed").exists()
    same(there, fc.evaluate(*pair, fc.Uniform(), **options))


def test_a_process_that_dies_again_and_again_ends_the_run_with_what_was_done(pair, data, tmp_path):
    def loss(logits, y):
        if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
            os.kill(os.getpid(), signal.SIGKILL)
        return F.cross_entropy(logits, y, reduction="none")

    with pytest.raises(RuntimeError, match="a task's process died 2 times"):
        fc.evaluate(*pair, fc.Uniform(), engine=fc.Ray(retries=1), data=data, n=50, loss=loss, out=tmp_path)
    assert len(fc.open_sweep(tmp_path)) == 0


def test_an_error_in_a_task_is_the_error_of_the_call(pair, data):
    def loss(logits, y):
        if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
            raise ArithmeticError("no more")
        return F.cross_entropy(logits, y, reduction="none")

    with pytest.raises(ArithmeticError, match="no more"):
        fc.evaluate(*pair, fc.Uniform(), engine="ray", data=data, n=50, loss=loss)


def test_what_cannot_run(pair, data):
    for engine, message in (
        ("dask", "engine='dask' is neither 'ray' nor"),
        (fc.Ray(cpus=64), "no room for a task of 64 cores"),
        (fc.Ray(gpus=1), "no room for a task of 1 cores and 1 GPUs"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            fc.evaluate(*pair, fc.Uniform(), engine=engine, data=data, n=5)
    with pytest.raises(ValueError, match=r"for GPUs of a cluster pass Ray\(gpus=1\)"):
        fc.evaluate(*pair, fc.Uniform(), engine="ray", device="cpu", data=data, n=5)
    with pytest.raises(ValueError, match="cpus must be at least 1"):
        fc.Ray(cpus=0)
