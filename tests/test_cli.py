"""The command line as somebody uses it who has checkpoints and data in files."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import fastcomb as fc
from fastcomb.cli.commands import run
from fastcomb.models import MLP, Tiny10

MODEL = "fastcomb.models:MLP((7, 63, 3, 5))"


@pytest.fixture
def files(pair, data, tmp_path, monkeypatch):
    """a.safetensors, b.pt and data.npz in the present folder, and a module of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    save_file(pair[0].state_dict(), "a.safetensors")
    torch.save(pair[1].state_dict(), "b.pt")
    np.savez("data.npz", x=data[0].numpy(), y=data[1].numpy())
    save_file({"x": data[0], "y": data[1]}, "data.safetensors")
    (tmp_path / "mine.py").write_text(
        "import torch, numpy\n"
        "from fastcomb.models import MLP\n"
        "def network(hidden=63): return MLP((7, hidden, 3, 5))\n"
        "def samples():\n"
        "    found = numpy.load('data.npz')\n"
        "    return found['x'], found['y']\n"
        "def brier(logits, y):\n"
        "    return ((logits.softmax(1) - torch.nn.functional.one_hot(y, 5)) ** 2).sum(1)\n"
    )
    return tmp_path


@pytest.fixture
def call(capsys):
    """Runs a command; its exit code, output and errors."""

    def call(*arguments):
        code = run(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def sweep(*more, model=MODEL, data="data.npz"):
    return ("sweep", "a.safetensors", "b.pt", "--model", model, "--data", data, "--quiet", *more)


def test_info(call):
    code, out, _ = call("info", "--json")
    assert code == 0
    assert json.loads(out)["torch"] == torch.__version__
    assert "compiled engine" in call("info")[1]


@pytest.mark.parametrize("model", [MODEL, "mine:network", "mine:network(hidden=63)"])
@pytest.mark.parametrize("samples", ["data.npz", "data.safetensors", "mine:samples"])
def test_sweep_is_evaluate(files, call, pair, data, model, samples):
    law = "Uniform(-0.25, 1.25, per='neuron')"
    code, out, _ = call(*sweep("-n", 300, "--sampler", law, "--seed", 3, "--json", model=model, data=samples))
    assert code == 0
    wanted = fc.evaluate(*pair, fc.Uniform(-0.25, 1.25, per="neuron"), data=data, n=300, seed=3).summary()
    found = json.loads(out)
    for name in ("combinations", "loss_mean", "loss_q95", "accuracy_mean", "backend"):
        assert found[name] == wanted[name]


def test_a_run_is_continued_described_merged_and_reported(files, call, pair, data):
    assert call(*sweep("-n", 200, "-o", "run", "--level", 1.6))[0] == 0
    code, out, _ = call(*sweep("-n", 300, "-o", "run", "--level", 1.6, "--json"))
    held = fc.evaluate(*pair, fc.Uniform(), data=data, n=300)
    assert json.loads(out)["fraction_loss_below_1.6"] == held.fraction_below("loss", 1.6).value
    np.testing.assert_array_equal(fc.open_sweep("run").loss, held.loss)

    code, out, _ = call("density", "run", "--level", 1.6, "--json", "--plot", "density.png")
    found = json.loads(out)["runs"]["run"]
    assert found["loss_mean"] == pytest.approx(held.loss.mean(dtype=float))
    median, low, high = found["loss_q50"]
    assert low <= median <= high
    assert (files / "density.png").exists()

    call(*sweep("-n", 100, "--start", 300, "-o", "more"))
    code, out, _ = call("merge", "run", "more", "-o", "all")
    assert (code, out.strip()) == (0, "all: 400 of 400 combinations")
    call(*sweep("-n", 400, "--sampler", "Bernoulli(0.5)", "-o", "other"))
    code, out, _ = call("density", "all", "other")
    assert "all and other: " in out
    assert call("report", "all", "other", "-o", "report.html")[0] == 0
    assert "<html" in (files / "report.html").read_text()


def test_deciding_and_stopping_at_a_precision(files, call):
    code, out, _ = call(*sweep("-n", 2000, "--level", 1.65, "--decide", "--error", 0.1, "--json"))
    assert code == 0
    assert json.loads(out)["samples_taken_mean"] <= 100
    code, out, _ = call(*sweep("-n", 100_000, "--level", 1.65, "--half-width", 0.05, "--json"))
    found = json.loads(out)
    assert found["combinations"] < 100_000
    assert found["estimate_high"] - found["estimate_low"] <= 0.1


def test_a_dry_run_says_what_would_run_and_leaves_nothing(files, call):
    call(*sweep("-n", 100, "-o", "run"))
    code, out, _ = call(*sweep("-n", 1_000_000, "-o", "run", "--dry-run", "--json"))
    found = json.loads(out)
    assert code == 0
    assert (found["would_evaluate"], found["already_there"]) == (999_900, 100)
    assert found["seconds"] == pytest.approx(999_900 / found["combinations_per_second"])
    assert len(fc.open_sweep("run")) == 100
    assert call(*sweep("-o", "none", "--dry-run"))[0] == 0
    assert not (files / "none").exists()


def test_align_writes_a_checkpoint(files, call, pair):
    code, out, _ = call(
        "align", "a.safetensors", "b.pt", "--model", MODEL, "-o", "aligned.safetensors",
        "--option", "starts=2", "--alignment", "alignment.safetensors", "--json",
    )  # fmt: skip
    assert code == 0
    wanted = fc.rebasin.align(*pair, starts=2)
    found = load_file("aligned.safetensors")
    assert all(torch.equal(found[name], value) for name, value in wanted.state_dict.items())
    assert json.loads(out)["objective_after"] == wanted.objective[-1]
    assert fc.rebasin.load("alignment.safetensors", pair[1]).method == "weights"
    code, out, _ = call(
        "align", "a.safetensors", "b.pt", "--model", MODEL, "-o", "other.safetensors",
        "--method", "activations", "--data", "data.npz",
    )  # fmt: skip
    assert (code, "66 units in 2 groups" in out) == (0, True)


@pytest.mark.slow
def test_a_torch_export_archive_is_a_model(files, call, pair, data):
    def exported(model, x):
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(model.eval(), (x,), dynamic_shapes=dynamic)

    torch.export.save(exported(pair[0], data[0][:2]), "model.pt2")
    torch.export.save(exported(Tiny10(), torch.randn(2, 3, 32, 32)), "normed.pt2")
    done = subprocess.run(  # loading warns of torch's own doings
        [sys.executable, "-m", "fastcomb", *map(str, sweep("-n", 50, "--json", model="model.pt2"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = fc.evaluate(*pair, fc.Uniform(), data=data, n=50).summary()
    assert json.loads(done.stdout)["loss_mean"] == pytest.approx(wanted["loss_mean"])
    done = subprocess.run(
        [sys.executable, "-m", "fastcomb", *map(str, sweep("-n", 50, model="normed.pt2"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "normalisation with running statistics" in done.stderr


def test_losses_of_ones_own(files, call, pair, data):
    import mine

    code, out, _ = call(*sweep("-n", 20, "--loss", "mine:brier", "--json"))
    assert code == 0
    wanted = fc.evaluate(*pair, fc.Uniform(), data=data, n=20, loss=mine.brier).summary()
    assert json.loads(out)["loss_mean"] == pytest.approx(wanted["loss_mean"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (sweep(model="mine:nothing"), 1, "model 'mine:nothing' cannot be imported"),
        (sweep(model="fastcomb.models:MLP(open('x'))"), 1, "arguments must be literals"),
        (sweep(model="mine"), 1, "is neither a file that exists nor package.module:name"),
        (sweep(model="mine:samples"), 1, "is a tuple, not an nn.Module"),
        (sweep(data="none.npz"), 1, "no file none.npz"),
        (sweep(data="torchvision:MNIST"), 1, "write torchvision:NAME:FOLDER"),
        (sweep("--sampler", "Unform()"), 2, "is not a sampler"),
        (sweep("--decide"), 2, "give --level"),
        (sweep("--decide", "--half-width", 1, "--level", 1), 2, "give one of them"),
        (sweep("-n", 0), 2, "'0' is not a number of at least 1"),
        (sweep("--device", "warp"), 1, "device='warp' cannot be used here"),
        (sweep(model="fastcomb.models:MLP((7, 62, 3, 5))"), 1, "does not fit the model"),
        (("sweep", "none", "b.pt"), 2, "does not exist"),
        (("density", "."), 1, "is not a run"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_are_one_line_that_says_the_fix(files, call, arguments, code, message):
    found, out, err = call(*arguments)
    assert found == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(files, call):
    assert "Traceback" in call("--debug", *sweep(data="none.npz"))[2]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_computed(files):
    """A real signal, while the loss of the 300th combination is computed."""
    (files / "impatient.py").write_text(
        "import itertools, signal, torch\n"
        "from fastcomb.backends.native import engine\n"
        "engine._CALL_WORK = 0  # the least that the engine does between two looks\n"
        "calls = itertools.count(1)\n"
        "def loss(logits, y):\n"
        "    if next(calls) == 300:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return torch.nn.functional.cross_entropy(logits, y, reduction='none')\n"
    )
    arguments = sweep("-n", 1_000_000, "-o", "run", "--loss", "impatient:loss")
    command = [sys.executable, "-m", "fastcomb", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "note: interrupted: " in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 < len(fc.open_sweep("run")) < 300


def test_bench(call):
    code, out, _ = call("bench", "--width", 8, "--samples", 50, "--rounds", 1, "--json")
    assert code == 0
    assert json.loads(out)["milliseconds"]["torch loop"] > 0


def test_a_torchvision_set_from_its_folder(files, vision):
    """MNIST's own files, with five small images."""
    from fastcomb.cli.arguments import read_data

    raw = files / "data/MNIST/raw"
    raw.mkdir(parents=True)
    images = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
    for split in ("train", "t10k"):
        header = struct.pack(">IIII", 2051, 5, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 5) + bytes([3, 1, 4, 1, 5]))
    found = read_data("torchvision:MNIST:data")
    a, b = MLP((784, 8, 10)).eval(), MLP((784, 8, 10)).eval()
    sweep = fc.evaluate(a, b, fc.Uniform(), data=found, n=3)
    x = torch.from_numpy(images.reshape(5, 784) / np.float32(255))
    with torch.no_grad():
        loss = F.cross_entropy(sweep.rebuild(1)(x), torch.tensor([3, 1, 4, 1, 5])).item()
    assert sweep.loss[1] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(ValueError, match="torchvision has no data set 'MINST'"):
        read_data("torchvision:MINST:data")
