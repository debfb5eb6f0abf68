"""How many combinations the demo evaluates."""

import pytest
import torch

import fastcomb as fc
from fastcomb import demo
from fastcomb.models import MLP


@pytest.fixture
def networks():
    x, y = torch.randn(20, 7), torch.randint(0, 5, (20,))
    return MLP((7, 5)).eval(), MLP((7, 5)).eval(), (x, y)


def test_a_million_where_that_fits_and_a_thousand_each_at_least(networks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SECONDS", 1e9)
    assert demo.choose(*networks, tmp_path) == 125_000
    assert "125,000 combinations each, a million in all" in capsys.readouterr().out
    monkeypatch.setattr(demo, "SECONDS", 1e-9)
    assert demo.choose(*networks, tmp_path) == 1_000
    said = capsys.readouterr().out
    assert "1,000 combinations each, 8,000 in all: what fits 0 seconds at the speed measured here" in said
    assert "--combinations 125000" in said


def test_what_fits_follows_the_seconds(networks, monkeypatch):
    monkeypatch.setattr(demo, "MOST", 10**15)
    monkeypatch.setattr(demo, "SECONDS", 1e6)
    assert 1_000 < demo.affordable(*networks) < 10**15
    assert demo.affordable(*networks) % 1_000 == 0


def test_the_next_time_is_not_for_fewer(networks, tmp_path, monkeypatch, capsys):
    a, b, data = networks
    monkeypatch.setattr(demo, "SECONDS", 1e-9)  # 1,000 fit
    for n in (400, 2_300):
        fc.evaluate(a, b, fc.Uniform(), data=data, n=n, out=demo.folder(tmp_path, "aligned", "uniform"))
        assert demo.choose(*networks, tmp_path) == max(n, 1_000)
    assert "2,300 combinations each, as last time" in capsys.readouterr().out


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with demo.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
