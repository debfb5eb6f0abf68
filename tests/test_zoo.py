"""benchmarks/zoo.py: its networks are right, and its rows and page say what happened."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from benchmarks import by_hand, zoo
from benchmarks.architectures import Architecture, architectures, missing

ROOT = Path(__file__).parents[1]
#: One of every kind: a value folded away, several inputs, results by name, an order, tied weights.
QUICK = ("MLP, batch norm, SELU", "siamese", "results by name", "a set, sorted", "tied language model")


class Climb(nn.Module):
    def forward(self, x):
        return x.cummax(1).values


def by_hand_named(name: str) -> Architecture:
    return next(one for one in architectures("by-hand") if one.name == name)


def check(found: zoo.Row) -> None:
    """Right, by whatever ran it, and cut where it says."""
    faults = [value for key, value in found.items() if key.startswith("fault_")]
    assert not faults
    assert found["error"] <= zoo.TOLERANCE
    assert found["where"] in ("whole", "parts", "reference")
    assert found.get("cut_right", True)
    assert found.get("recovered", 1.0) == 1.0


class TestRows:
    def test_what_torch_runs_is_named(self):
        one = by_hand_named("MLP")
        found = zoo.row(dataclasses.replace(one, make=lambda: nn.Sequential(one.make(), Climb())))
        assert found["where"] == "parts"
        assert found["apart"] == ["aten.cummax.default"]
        assert found["nodes_apart"] == 1
        assert 0 <= found["torch_share"] <= 1

    @pytest.mark.parametrize("name", QUICK)
    def test_a_few_by_hand(self, name):
        found = zoo.row(by_hand_named(name), align=True)
        check(found)
        assert found["nodes"] > 2
        assert found["where"] == "whole"
        assert found.get("recovered", 1.0) == 1.0

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [name for name in by_hand.NETWORKS if name not in QUICK])
    def test_all_by_hand(self, name):
        check(zoo.row(by_hand_named(name)))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("group", "name"),
        [
            ("transformers", "DistilBert"),
            ("transformers", "Mixtral"),
            ("transformers", "Llama with tokens, tied"),
            ("torchvision", "shufflenet_v2_x0_5"),
            ("timm", "lcnet_035"),
        ],
    )
    @pytest.mark.filterwarnings("default")  # of the packages themselves
    def test_of_packages(self, group, name):
        if missing(group):
            pytest.skip(f"{', '.join(missing(group))} not installed")
        (one,) = (one for one in architectures(group) if one.name == name)
        check(zoo.row(one))

    def test_a_network_that_fails_is_a_row(self):
        def broken():
            raise RuntimeError("no such layer")

        one = Architecture("broken", "by-hand", broken, by_hand.normal(7))
        with pytest.raises(RuntimeError, match="no such layer"):
            zoo.row(one)


class TestNotices:
    def test_parts(self):
        said = "of this network the compiled kernels do not have sort, topk, which torch runs between them"
        found = zoo.said_of("native", [f"{said}, in 12% of the time"], None)
        assert (found["where"], found["apart"]) == ("parts", ["sort", "topk"])
        assert found["torch_share"] == 0.12

    def test_reference(self):
        found = zoo.said_of(
            "torch_reference", ["MLP runs …: the compiled kernels cannot run several inputs"], None
        )
        assert (found["where"], found["why"]) == ("reference", "several inputs")


class TestScript:
    @pytest.mark.slow
    def test_goes_on_with_what_is_missing(self, tmp_path):
        kept = tmp_path / "zoo.json"
        old = {"name": "LSTM", "group": "by-hand", "where": "reference", "why": "a | b", "error": 2e-5}
        kept.write_text(json.dumps({"rows": {"by-hand/LSTM": old}}))
        page = tmp_path / "page.md"
        command = [sys.executable, "-m", "benchmarks.zoo", "--group", "by-hand", "--only", "MLP"]
        done = subprocess.run(
            [*command, "--json", str(kept), "--markdown", str(page)], cwd=ROOT, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        rows = json.loads(kept.read_text())["rows"]
        assert rows["by-hand/LSTM"] == old
        assert rows["by-hand/MLP"]["where"] == "whole"
        text = page.read_text()
        assert "| by-hand | 2 | 1 (50%) | 0 (0%) | 1 (50%) | 0 | 1 | 1 | 0 of 0 |" in text
        assert "reference: a / b" in text
        columns = {line.count("|") for line in text.split("## by-hand")[1].splitlines() if line}
        assert columns == {12}

    @pytest.mark.slow
    def test_a_network_that_hangs_costs_one_row(self):
        chosen = [by_hand_named(name) for name in ("MLP", "siamese")]
        found = list(zoo.rows(chosen, align=False, limit=1e-3))
        assert [row["where"] for row in found] == ["failed", "failed"]
        assert "not done within" in found[0]["fault_evaluate"]

    def test_unknown_names(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["zoo", "--group", "by-hand", "--only", "MPL"])
        with pytest.raises(SystemExit):
            zoo.main()
        assert "no network is called MPL; there are MLP" in capsys.readouterr().err
