"""What the README, the demo and the benchmarks say can be done, can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastcomb
from fastcomb import rare
from fastcomb.models import MLP

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    names = {
        "model_a": MLP((6, 9, 8, 3)),
        "model_b": MLP((6, 9, 8, 3)),
        "model_c": MLP((6, 9, 8, 3)),
        "x_test": x,
        "y_test": torch.randint(0, 3, (40,)),
        "x": x,
    }
    asked = []

    def rare_fraction(mixture, *args, **kwds):
        asked.append(mixture)
        return rare.rare_fraction(mixture, *args, **kwds)

    monkeypatch.setattr(fastcomb, "rare_fraction", rare_fraction)
    for block in blocks:
        exec(block.replace("100_000", "2_000"), names)
    assert "combinations per second" in capsys.readouterr().out
    assert {"density.png", "layers.png"} <= {p.name for p in tmp_path.iterdir()}
    assert names["rare"].level == names["sweep"].loss.min()
    (mixture,) = asked  # about the fraction of the pair whose level it is
    for name, value in names["sweep"].mixture[3].items():
        assert torch.equal(mixture[3][name], value)


def test_the_page_on_stitching_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "stitching.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = torch.randn(60, 6)
    names = {
        "fc": fastcomb,
        "model_a": MLP((6, 9, 8, 3)),
        "model_b": MLP((6, 9, 8, 3)),
        "x_train": x,
        "x_test": x,
        "y_test": torch.randint(0, 3, (60,)),
    }
    exec(block.replace("n=1000", "n=50"), names)
    printed = capsys.readouterr().out
    assert "2 N×9" in printed
    assert "| task loss |" in printed
    assert (tmp_path / "stitch.safetensors").exists()


@pytest.mark.slow
def test_the_demo_runs_and_finds_what_the_readme_says(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastcomb", "demo", "--combinations", "64", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("aligned", "unaligned"))]
    assert len(rows) == 8
    loss = {(pair, law): float(mean) for pair, law, mean, *_ in rows}
    for law in ("uniform", "Bernoulli(½)", "vicinity"):
        assert loss["aligned", law] < 0.5 * loss["unaligned", law]
    assert {"alignment.png", "laws.png", "line.png", "report.html"} <= {p.name for p in tmp_path.iterdir()}
    demo = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    shell = re.search(r"```\ncd out/demo\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace("-n 100000", "-n 1000"))
        subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in demo} == demo
    assert (tmp_path / "two-runs.html").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_table_measures_agreeing_contenders():
    from benchmarks.gemm import peak
    from benchmarks.table import measure

    rows = measure("W0", "float32", 1, ["fastcomb", "torch loop", "torch vmap"])
    assert [row["contender"] for row in rows] == ["fastcomb", "torch loop", "torch vmap"]
    assert all(row["p50_ms"] > 0 and row["flops"] == 2 * 360 * (64 * 32 + 32 * 10) for row in rows)
    rate, where = peak(torch.float32, rounds=1)
    assert rate > 0
    assert "×" in where


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fine_tuned_pair_beside_a_loop(monkeypatch, capsys):
    """It compares losses and accuracies itself."""
    pytest.importorskip("transformers")
    from benchmarks import fine_tuned

    monkeypatch.setattr("sys.argv", ["fine_tuned", "--combinations", "20", "--looped", "3"])
    fine_tuned.main()
    assert "fastcomb.evaluate (native)" in capsys.readouterr().out
