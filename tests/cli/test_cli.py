"""The command line as somebody uses it who has checkpoints and data in files."""

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
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
        "def broken(): raise RuntimeError('no GPU\\nhere')\n"
        "def lacking(): return {}['width']\n"
        "def ends(): raise EOFError\n"
        "def leaves(): raise SystemExit(0)\n"
        "def unsuited(logits, y): raise KeyError('classes')\n"
        "class Made:\n"
        "    @staticmethod\n"
        "    def network(): return network()\n"
        "def top2(logits, y): return (logits.topk(2).indices == y[:, None]).any(1).float()\n"
        "class Buffered(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = network()\n"
        "        self.register_buffer('scale', torch.ones(5))\n"
        "    def forward(self, x): return self.layers(x) * self.scale\n"
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
    for label, model in zip(("theta_a", "theta_b"), pair, strict=True):
        with torch.no_grad():
            assert found[f"loss_of_{label}"] == pytest.approx(F.cross_entropy(model(data[0]), data[1]).item())
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


@pytest.mark.parametrize("changed", [["--seed", 1], ["--sampler", "Bernoulli"], ["--loss", "mine:brier"]])
def test_a_dry_run_checks_what_the_run_would(files, call, changed):
    call(*sweep("-n", 100, "-o", "run"))
    before = {path: path.stat().st_mtime_ns for path in (files / "run").rglob("*")}
    real = call(*sweep("-o", "run", *changed))
    assert "run holds another experiment than this" in real[2]
    assert call(*sweep("-o", "run", *changed, "--dry-run")) == real
    decided = ["--level", 1.65, "--decide", "--error", 0.1]
    fails(call, sweep("-o", "run", "--dry-run", *decided), 1, "decide is null there")
    fails(call, sweep("-o", ".", "--dry-run"), 1, "and is no run; take a folder that is new or empty")
    assert before == {path: path.stat().st_mtime_ns for path in (files / "run").rglob("*")}


def align(*more, out):
    return ("align", "a.safetensors", "b.pt", "--model", MODEL, "-o", out, *more)


def test_a_checkpoint_has_the_format_of_its_suffix(files, call, pair):
    wanted = fc.rebasin.align(*pair).state_dict
    for name in ("aligned.pt", "aligned.pth"):
        assert call(*align(out=name))[0] == 0
        found = torch.load(name, weights_only=True)
        assert found._metadata == pair[1].state_dict()._metadata
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
        MLP((7, 63, 3, 5)).load_state_dict(found)
    for name in ("aligned.bin", "aligned"):
        fails(call, align(out=name), 2, f"{name!r} must end in .safetensors, .pt or .pth")
    fails(call, align(out="b.pt"), 2, "--out b.pt is one of the two networks")
    fails(call, align("--alignment", "x.pt", out="x.pt"), 2, "the same file")
    fails(call, align("--option", "starts", out="x.pt"), 2, "'starts' is not NAME=VALUE")
    assert not (files / "x.pt").exists()


def test_a_checkpoint_keeps_dtypes_and_metadata(files, call, pair):
    half = {name: value.half() for name, value in pair[1].state_dict().items()}
    save_file(half, "half.safetensors", {"licence": "mine"})
    assert call(
        "align", "a.safetensors", "half.safetensors", "--model", MODEL, "-o", "aligned.safetensors"
    )[0] == 0  # fmt: skip
    with safe_open("aligned.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "licence": "mine"}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


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


def test_a_loss_with_settings(files, call, pair, data):
    loss = "cross_entropy(label_smoothing=0.1)"
    code, out, _ = call(*sweep("-n", 20, "--loss", loss, "--json"))
    assert code == 0
    wanted = fc.evaluate(*pair, fc.Uniform(), data=data, n=20, loss=loss).summary()
    assert json.loads(out)["loss_mean"] == pytest.approx(wanted["loss_mean"])


def test_losses_of_ones_own(files, call, pair, data):
    import mine

    code, out, _ = call(*sweep("-n", 20, "--loss", "mine:brier", "--json"))
    assert code == 0
    wanted = fc.evaluate(*pair, fc.Uniform(), data=data, n=20, loss=mine.brier).summary()
    assert json.loads(out)["loss_mean"] == pytest.approx(wanted["loss_mean"])


def test_accuracy_is_what_one_says(files, call, pair, data):
    import mine

    code, out, _ = call(*sweep("-n", 20, "--accuracy", "mine:top2", "--json"))
    assert code == 0
    wanted = fc.evaluate(*pair, fc.Uniform(), data=data, n=20, accuracy=mine.top2).summary()
    assert json.loads(out)["accuracy_mean"] == wanted["accuracy_mean"]
    code, out, _ = call(*sweep("-n", 20, "--loss", "mine:brier", "--accuracy", "argmax", "--json"))
    assert (
        json.loads(out)["accuracy_mean"]
        == fc.evaluate(*pair, fc.Uniform(), data=data, n=20).summary()["accuracy_mean"]
    )
    fails(call, sweep("--accuracy", "none"), 1, "accuracy='none' is neither 'argmax' nor a callable")
    fails(call, sweep("--accuracy", "mine:none"), 1, "accuracy 'mine:none' cannot be imported")


def test_buffers_that_differ_need_a_choice(files, call, data):
    import mine

    torch.manual_seed(0)
    a, b = mine.Buffered(), mine.Buffered()
    b.scale *= 3
    save_file(a.state_dict(), "one.safetensors")
    save_file(b.state_dict(), "other.safetensors")
    command = ("sweep", "one.safetensors", "other.safetensors", "--model", "mine:Buffered")
    command += ("--data", "data.npz", "--quiet", "-n", 20, "--json")
    fails(call, command, 1, 'buffers="a"')
    for choice in ("a", "lerp"):
        code, out, _ = call(*command, "--buffers", choice)
        assert code == 0
        wanted = fc.evaluate(a, b, fc.Uniform(), data=data, n=20, buffers=choice).summary()
        assert json.loads(out)["loss_mean"] == pytest.approx(wanted["loss_mean"])
    assert call(*command, "--buffers", "a", "--dry-run", "-o", "run")[0] == 0


def fails(call, arguments, code, message):
    """A command that fails with one line and does nothing else."""
    found, out, err = call(*arguments)
    assert message in " ".join(err.split())
    assert found == code
    assert "Traceback" not in err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


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
        (sweep("--sampler", "Uniform("), 2, "is not a sampler ('(' was never closed); write one of"),
        (sweep("-n", 0), 2, "'0' is not a number of at least 1"),
        (sweep("--device", "warp"), 1, "device='warp' cannot be used here"),
        (("sweep", "none", "b.pt"), 2, "does not exist"),
        (("density", "."), 1, "is not a run"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_are_one_line_that_says_the_fix(files, call, arguments, code, message):
    fails(call, arguments, code, message)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mine:broken", "model 'mine:broken' raised RuntimeError: no GPU here"),
        ("mine:lacking", "model 'mine:lacking' raised KeyError: 'width'"),
        ("mine:ends", "model 'mine:ends' raised EOFError"),
        ("mine:leaves", "model 'mine:leaves' raised SystemExit: 0"),
        ("mine:network(wide=3)", "unexpected keyword argument 'wide'"),
        ("mine:Made.none", "has no attribute 'none'"),
        ("unfinished:network", "model 'unfinished:network' cannot be imported: SyntaxError"),
        ("mine.py:network", "write a module with dots, without .py, as in mine:network"),
        ("mine:network(62)", "A (a.safetensors) does not fit the model: '1.weight' (63, 7), model (62, 7)"),
        ("mine:network(62)", "the model is mine:network(62)"),
        ("b.pt", "model 'b.pt' is a file of another kind; it must be package.module:factory, or an archive"),
        (".", "model '.' is a folder; it must be package.module:factory"),
        ("none.pt2", "no file none.pt2"),
        ("text.pt2", "text.pt2 cannot be read as an archive of torch.export"),
    ],
)
def test_errors_name_the_code_of_the_model(files, call, model, message):
    (files / "unfinished.py").write_text("def network(:")
    (files / "text.pt2").write_text("text")
    fails(call, sweep(model=model), 1, message)


def test_a_factory_may_be_inside_a_class(files, call):
    assert call(*sweep("-n", 5, model="mine:Made.network"))[0] == 0


def test_errors_name_the_data_file(files, call, data):
    x, y = (part.numpy() for part in data)
    there = (files / "data.npz").read_bytes()
    arrays = {
        "short.npz: x has 100 samples but y has 99": {"x": x, "y": y[:99]},
        "nameless.npz has inputs, outputs; it must have x and y, or inputs": {"inputs": x, "outputs": y},
        "objects.npz cannot be read as .npz: x does not hold numbers": {"x": np.array([None, 1]), "y": y},
        "words.npz cannot be read as .npz: x does not hold numbers": {"x": np.array(["a", "b"]), "y": y},
        "number.npz: x is a single number": {"x": np.float32(3), "y": y},
        "running mine:network on wide.npz: RuntimeError: ": {"x": np.zeros((100, 8), np.float32), "y": y},
    }
    for message, held in arrays.items():
        name = re.search(r"\w+\.npz", message)[0]
        np.savez(name, **held)
        fails(call, sweep(data=name, model="mine:network"), 1, message)
    contents = {
        "text.npz cannot be read as .npz: it is no archive of numpy.savez": b"text",
        "empty.npz cannot be read as .npz: it is no archive of numpy.savez": b"",
        "half.npz cannot be read as .npz: it is no archive of numpy.savez, or not all of one": there[:700],
        "pointer.npz is a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "text.safetensors cannot be read as .safetensors": b"text",
        "half.safetensors cannot be read as .safetensors": (files / "data.safetensors").read_bytes()[:900],
        "data 'table.csv' is a file of another kind; it must be a .npz, .pt or .safetensors file": b"1,2",
    }
    for message, content in contents.items():
        name = re.search(r"\w+\.(npz|safetensors|csv)", message)[0]
        (files / name).write_bytes(content)
        fails(call, sweep(data=name), 1, message)
    fails(call, sweep(data="."), 1, "data '.' is a folder; it must be")
    fails(call, sweep("--loss", "mine:unsuited"), 1, f"running {MODEL} on data.npz: KeyError: 'classes'")


def test_data_of_another_byte_order_and_suffixes_in_capitals_are_read(files, call, data):
    wanted = call(*sweep("-n", 5, "--json"))[1]
    np.savez("swapped.npz", x=data[0].numpy().astype(">f4"), y=data[1].numpy())
    (files / "swapped.npz").rename("SWAPPED.NPZ")
    found = call(*sweep("-n", 5, "--json", data="SWAPPED.NPZ"))[1]
    assert json.loads(found)["loss_mean"] == json.loads(wanted)["loss_mean"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--decide"], 2, "give --level"),
        (["--half-width", 0.1], 2, "give --level"),
        (["--decide", "--half-width", 0.1, "--level", 1], 2, "give one of them"),
        (["--level", 90, "--metric", "accuracy"], 2, "accuracy is a fraction of the samples, from 0 to 1"),
        (["--level", "nan"], 2, "nan is not finite"),
        (["--level", 1, "--half-width", 0], 2, "0 is outside (0, 0.5)"),
        (["--level", 1, "--half-width", "nan"], 2, "nan is not finite"),
        (["--level", 1, "--decide", "--error", 0], 2, "0 is outside [1e-05, 0.5]"),
        (["--level", 1, "--error", 0.1], 2, "give --decide too"),
        (["--metric", "accuracy"], 2, "give --level too"),
        (["--cpus", 2], 2, "--cpus is about Ray: give --ray too"),
        (["--gpus", 1], 2, "--gpus is about Ray: give --ray too"),
        (["--address", "auto"], 2, "--address is about Ray: give --ray too"),
        (["--ray", "--device", "cpu"], 2, "give --ray --gpus 1"),
        (["--batch-norm", "a"], 1, f"--batch-norm a: the model {MODEL} has no running statistics in use"),
        (["--batch-norm", "recompute"], 2, "give --calibration"),
        (["--calibration", "data.npz"], 2, "--calibration is for --batch-norm recompute"),
        (["--seed", -1], 2, "-1 is not in the range"),
    ],
)
def test_options_that_would_be_ignored_or_mean_nothing_are_refused(files, call, options, code, message):
    fails(call, sweep(*options), code, message)


@pytest.mark.filterwarnings("default::fastcomb.BackendNotice")
def test_one_network_twice(files, call, pair):
    (files / "link.safetensors").symlink_to("a.safetensors")
    for other in ("a.safetensors", "link.safetensors"):
        arguments = ("sweep", "a.safetensors", other, "--model", MODEL, "--data", "data.npz")
        fails(call, arguments, 2, "A and B are the same file, a.safetensors")
    torch.save(pair[0].state_dict(), "copy.pt")
    code, _, err = call(
        "sweep", "a.safetensors", "copy.pt", "--model", MODEL, "--data", "data.npz", "-n", 3, "--quiet"
    )
    assert code == 0
    assert err == (
        "note: a.safetensors and copy.pt hold the same weights: all their combinations are one network\n"
    )
    assert "same weights" not in call(*sweep("-n", 3))[2]


def test_runs_are_named_once_and_levels_can_be_met(files, call):
    call(*sweep("-n", 20, "-o", "run"))
    fails(call, ("density", "run", "./run"), 2, "./run is there twice")
    fails(call, ("report", "run", "run"), 2, "run is there twice")
    fails(call, ("density", "run", "--metric", "accuracy", "--level", 90), 2, "from 0 to 1")
    fails(call, ("density", "run", "--confidence", 1), 2, "1 is outside (0, 1)")
    call(*sweep("-n", 600, "--level", 1.65, "--decide", "--error", 0.1, "-o", "decided"))
    fails(call, ("density", "decided", "--plot", "x.png"), 1, "no measured combinations to draw")


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


@pytest.mark.parametrize("arguments", [["-h"], ["--version"], ["sweep", "-h"], ["align", "--help"]])
def test_help_imports_nothing_that_is_slow_to(arguments):
    script = (
        "import sys\n"
        "from fastcomb.cli.commands import run\n"
        f"assert run({arguments}) == 0\n"
        "print({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("module", ["click", "fastcomb.cli.commands", "torch"])
def test_ctrl_c_during_the_start_is_one_line(files, module):
    (files / "start.py").write_text(
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from fastcomb.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "start.py", *map(str, sweep("-n", 10))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_bench(call, monkeypatch):
    """On a clock that stands in for the machine: first calls are slow, and do not count."""
    from fastcomb.cli import contest

    calls = []

    def ours(self, n):
        calls.append(n)
        self.before.append(0.5)
        return 5.0 if len(calls) < 3 else 0.001 * n

    monkeypatch.setattr(contest.Contest, "ours", ours)
    monkeypatch.setattr(contest.Contest, "loop", lambda self, n: 0.004 * n)
    code, out, _ = call("bench", "--width", 8, "--samples", 50, "--rounds", 3)
    assert code == 0
    assert re.search(r"fastcomb +1\.0000 ms per combination \[1\.0000, 1\.0000\] +1,000 per second", out)
    assert re.search(r"ratio +4\.0\n", out)
    assert min(calls[-3:]) >= 250
    assert "500 ms per call of evaluate, not counted above" in out


@pytest.mark.slow
def test_bench_measures_both_ways_on_this_machine(call):
    code, out, _ = call("bench", "--width", 8, "--samples", 50, "--rounds", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["seconds_before"] > 0
    assert found["rounds"] == {name: [value] for name, value in found["milliseconds"].items()}
    assert all(value > 0 for value in found["milliseconds"].values())


def test_a_torchvision_set_from_its_folder(files, vision):
    """MNIST's own files, with five small images."""
    from fastcomb.cli.reading import read_data

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
    with pytest.raises(ValueError, match=r"MNIST:none' cannot be read: .*\(nothing is downloaded"):
        read_data("torchvision:MNIST:none")


def test_the_methods_of_alignment_are_those_that_there_are():
    from fastcomb.cli.align import METHODS as named
    from fastcomb.rebasin.align import METHODS

    assert sorted(named) == sorted(METHODS.names)
