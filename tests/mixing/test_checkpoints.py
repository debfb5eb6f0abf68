"""Networks from files: what they are, what is refused and why, and names as wrappers leave them."""

import gzip
import io
import json
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fastcomb as fc
from fastcomb.models import MLP, Tiny10
from fastcomb.utils import notice

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def network(theta, model=None):
    """What is read from theta, as a state dict."""
    return fc.Mixture(theta, theta, fc.Uniform(), model=model)[0]


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    return True


def compiled(module):
    return torch.compile(module, backend="eager")


def shards(state, folder, write=save_file, suffix="safetensors", stem="model"):
    """A state dict in three files, and the index's text."""
    names = list(state)
    places = {}
    for number in range(3):
        file = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
        write({name: state[name] for name in names[number::3]}, folder / file)
        places |= dict.fromkeys(names[number::3], file)
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": places})


@pytest.fixture
def state(pair):
    return pair[0].state_dict()


# what a file is


@pytest.mark.parametrize("name", ["a.safetensors", "a.SAFETENSORS", "a.pt", "a.PTH", "a.bin", "a.ckpt", "a"])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy"])
def test_files_are_read_as_what_they_are_whatever_their_name(state, tmp_path, name, kind):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    assert same(network(path), state)
    assert same(network(str(path), MLP((7, 63, 3, 5))), state)


def test_checkpoints_without_checksums_are_read(state, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(network(tmp_path / "a.pt"), state)


def archive(path, names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "content")


def written(save):
    file = io.BytesIO()
    save(file, np.ones(3))
    return file.getvalue()


WRONG = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "one byte": (lambda p: p.write_bytes(b"\x80"), "neither safetensors nor"),
    "lfs": (lambda p: p.write_bytes(LFS), "git-lfs pointer.*git lfs pull"),
    "page": (lambda p: p.write_text("\n<!DOCTYPE html><html>Not found</html>"), "web page.*download"),
    "xml": (lambda p: p.write_text("<?xml version='1.0'?><Error>AccessDenied</Error>"), "web page"),
    "text": (lambda p: p.write_text("Entry not found"), "is a text, not a checkpoint"),
    "json": (lambda p: p.write_text('{"hidden_size": 8}'), "no index of shards"),
    "index": (lambda p: p.write_text('{"weight_map": {}}'), "no index of shards"),
    "index of numbers": (lambda p: p.write_text('{"weight_map": {"a": 1}}'), "no index of shards"),
    "half an index": (lambda p: p.write_text('{"weight_map": {"a": "b'), "no index of shards"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 4), "neither safetensors nor"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "compressed with gzip"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "gguf": (lambda p: p.write_bytes(b"GGUF" + bytes(99)), "GGUF.*quantized"),
    "zip": (lambda p: archive(p, ["a/b.txt"]), "zip archive, but not one of torch.save"),
    "npz": (lambda p: p.write_bytes(written(np.savez)), r"numpy arrays; pass dict\(numpy.load"),
    "npy": (lambda p: p.write_bytes(written(np.save)), "is a numpy array"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"w": np.ones(3)})), "pickle that torch.save did not"),
    "tensor": (lambda p: torch.save(torch.ones(3), p), "holds a Tensor, not a state dict"),
    "list": (lambda p: torch.save([torch.ones(3)], p), "holds a list, not a state dict"),
    "script": (lambda p: archive(p, ["a/data.pkl", "a/constants.pkl"]), r"TorchScript.*torch\.jit\.load"),
    "program": (lambda p: archive(p, ["a/archive_format"]), r"exported program.*torch\.export\.load"),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("what", WRONG)
def test_other_files_are_refused_by_what_they_are(pair, tmp_path, what, suffix):
    write, message = WRONG[what]
    path = tmp_path / f"other.{suffix}"
    write(path)
    for model in (None, pair[0]):
        with pytest.raises(ValueError, match=rf"(?s)theta_b: \S*other.{suffix} .*{message}"):
            fc.Mixture(pair[0].state_dict(), path, fc.Uniform(), model=model)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
def test_files_that_are_cut_off_are_refused(state, tmp_path, kind, kept):
    path = tmp_path / "a.pt"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"theta_a: \S*a.pt is cut off or damaged .*download it again"):
        network(path)


def test_a_bit_that_fell_over_is_noticed(state, tmp_path):
    """torch.load does not look at checksums: it would give another network."""
    path = tmp_path / "a.pt"
    torch.save(state, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(state["1.weight"].numpy().tobytes()) + 6] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path, weights_only=True)["1.weight"], state["1.weight"])
    with pytest.raises(ValueError, match=r"a.pt is cut off or damaged \(Bad CRC-32"):
        network(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_an_archive_gives_another_network(data):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    content = bytearray(file.getvalue())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        path.write_bytes(content)
        found, refusal = None, ""
        try:
            found = network(path, nn.Linear(3, 2))
        except (ValueError, TypeError) as error:
            refusal = str(error)
        assert str(path) in refusal if found is None else same(found, model.state_dict())


def test_what_only_pickled_code_can_read_is_named(pair, tmp_path):
    path = tmp_path / "a.pt"
    for new in (True, False):
        torch.save(pair[0], path, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"whole module \(.*MLP.*executing pickled code.*state_dict\(\)"):
            network(path)
        record = {"state_dict": pair[0].state_dict(), "accuracy": np.float64(0.5)}
        torch.save(record, path, _use_new_zipfile_serialization=new)
        with pytest.raises(
            ValueError, match=r"holds .*numpy.*scalar.* beside its tensors.*\[key of the state dict\]"
        ):
            network(path)


def test_paths_that_are_not_there_are_answered_with_what_is(state, tmp_path):
    torch.save(state, tmp_path / "epoch_10.pt")
    torch.save(state, tmp_path / "Best.pt")
    for asked, answer in {
        "epoch_11.pt": "there is epoch_10.pt",
        "best.pth": "there is Best.pt",
        "none": "none$",
        "x/epoch_10.pt": r"there is no folder \S*x$",
    }.items():
        with pytest.raises(FileNotFoundError, match=f"theta_a: no file .*{answer}"):
            network(tmp_path / asked)
    (tmp_path / "link.pt").symlink_to(tmp_path / "blob")
    with pytest.raises(FileNotFoundError, match=r"link to \S*blob, which is missing"):
        network(tmp_path / "link.pt")
    for text in ("", "https://somewhere.org/a.pt"):
        with pytest.raises(ValueError, match="is no path; download"):
            network(text)
    with pytest.raises(TypeError, match="theta_b is a bytes"):
        fc.Mixture(state, bytes(tmp_path / "Best.pt"), fc.Uniform())


# shards and folders


@pytest.mark.parametrize(("suffix", "write"), [("safetensors", save_file), ("bin", torch.save)])
def test_shards_are_read_by_their_index_or_their_folder(state, tmp_path, suffix, write):
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(shards(state, tmp_path, write, suffix))
    assert same(network(index), state)
    assert same(network(tmp_path), state)
    assert same(network(tmp_path, MLP((7, 63, 3, 5))), state)
    index.unlink()
    assert same(network(tmp_path), state)
    with pytest.raises(ValueError, match=r"one of 3 parts of a network; pass their folder"):
        network(tmp_path / f"model-00002-of-00003.{suffix}")


def test_faults_of_shards_are_named(state, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(shards(state, tmp_path))
    second = tmp_path / "model-00002-of-00003.safetensors"
    content = second.read_bytes()
    second.unlink()
    for path in (index, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"shards are missing: \S*-00002-of-00003.safe"):
            network(path)
    second.write_bytes(content[:-2])
    with pytest.raises(ValueError, match=r"00002-of-00003.safetensors is cut off"):
        network(index)
    second.write_bytes(save({"1.bias": state["1.bias"], "other": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"00003.safetensors lacks what the index says it holds: '5.weight'"):
        network(index)
    second.write_bytes(save({n: state[n] for n in list(state)[1::3]} | {"other": torch.ones(1)}))
    with pytest.raises(ValueError, match="holds what the index does not say: 'other'"):
        network(index)
    second.write_bytes(LFS)
    with pytest.raises(ValueError, match="git lfs pull"):
        network(tmp_path)
    index.unlink()
    second.write_bytes(save({"1.weight": state["1.weight"]}))
    with pytest.raises(ValueError, match=r"holds what another shard holds too: '1.weight'"):
        network(tmp_path)
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"shards are missing: .*00002"):
        network(tmp_path)


def test_folders_with_one_checkpoint_or_one_of_a_usual_name_are_read(pair, tmp_path):
    state, other = (model.state_dict() for model in pair)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"folder without a checkpoint \(.safetensors, .pt"):
        network(tmp_path)
    torch.save(state, tmp_path / "only.PT")
    assert same(network(tmp_path), state)
    torch.save(other, tmp_path / "optimizer.pt")
    with pytest.raises(ValueError, match=r"several checkpoints; .*: only.PT, optimizer.pt"):
        network(tmp_path)
    save_file(other, tmp_path / "model.safetensors")
    with pytest.warns(fc.BackendNotice, match=r"of the folder \S* model.safetensors is read"):
        assert same(network(tmp_path), other)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"several checkpoints; .*: model.safetensors, pytorch_model.bin"):
        network(tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"distributed checkpoint; .*dcp_to_torch_save"):
        network(tmp_path)


# names


def wrapped(state, *prefixes):
    return {"".join(prefixes) + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefixes",
    [
        ["module."],
        ["_orig_mod."],
        ["module.", "_orig_mod."],
        ["_orig_mod.", "module."],
        ["module.", "module."],
        ["model."],
        ["model.", "module."],
        ["module.", "model.", "_orig_mod."],
    ],
    ids="".join,
)
def test_names_are_read_without_what_wrappers_put_before_them(pair, tmp_path, prefixes):
    a, b = (model.state_dict() for model in pair)
    torch.save(wrapped(a, *prefixes), tmp_path / "a.pt")
    with pytest.warns(fc.BackendNotice, match=rf"'{''.join(prefixes)}1.weight' as '1.weight'"):
        mix = fc.Mixture(tmp_path / "a.pt", b, fc.Uniform(), model=pair[0])
    assert same(mix[5], fc.Mixture(*pair, fc.Uniform())[5])
    notice.forget()
    if "model." not in prefixes:  # which may be the network's own, where nothing else is known
        with pytest.warns(fc.BackendNotice, match="1.weight' as '1.weight'"):
            mix = fc.Mixture(tmp_path / "a.pt", b, fc.Uniform())
        assert same(mix[5], fc.Mixture(*pair, fc.Uniform())[5])


def test_names_that_are_the_networks_own_stay():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.ModuleDict({"model": MLP((4, 3))})

        def forward(self, x):
            return self.module["model"](x)

    a, b = Holder(), Holder()
    assert same(network(a.state_dict(), b), a.state_dict())
    mix = fc.Mixture(a, b.state_dict(), fc.Uniform())
    x = torch.randn(5, 4)
    expected = torch.func.functional_call(a, mix[2], (x,))
    torch.testing.assert_close(mix.functional_call(a, 2, x)[0], expected)
    with pytest.warns(fc.BackendNotice, match=r"'1.weight' as 'module.model.1.weight'"):
        assert same(network(a.module["model"].state_dict(), b), a.state_dict())


def test_wrappers_inside_a_network_are_no_part_of_names():
    plain = nn.Sequential(MLP((4, 3)), nn.Linear(3, 2))
    parallel = nn.Sequential(nn.DataParallel(plain[0]), plain[1])
    other = nn.Sequential(MLP((4, 3)), nn.Linear(3, 2))
    with pytest.warns(fc.BackendNotice, match=r"'0.module.1.weight' as '0.1.weight'"):
        assert same(network(parallel.state_dict(), other), plain.state_dict())
    parallel_other = nn.Sequential(nn.DataParallel(other[0]), other[1])
    with pytest.warns(fc.BackendNotice, match=r"'0.1.weight' as '0.module.1.weight'"):
        assert same(network(plain.state_dict(), parallel_other), parallel.state_dict())


def test_only_what_all_names_carry_is_taken_out(pair):
    state = pair[0].state_dict()
    mixed = {f"module.{n}" if n.startswith("1") else n: value for n, value in state.items()}
    assert same(network(mixed), mixed)
    held = wrapped(state, "model.") | {"criterion.weight": torch.ones(5)}
    with pytest.raises(ValueError, match=r"lacks parameters .*: '1.weight' \(it has 'model.1.weight'\)"):
        network(held, pair[0])


def test_modules_in_wrappers_are_read_as_what_is_inside(pair, data):
    a, b = pair
    mix = fc.Mixture(*pair, fc.Uniform())
    expected = mix.functional_call(a, range(3), data[0])
    losses = fc.evaluate(a, b, fc.Uniform(), data=data, n=4).loss
    for wrap in (nn.DataParallel, AveragedModel, compiled, lambda m: nn.DataParallel(compiled(m))):
        other = fc.Mixture(wrap(a), wrap(b), fc.Uniform())
        assert same(other[7], mix[7])
        found = other.functional_call(wrap(a), range(3), data[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        sweep = fc.evaluate(wrap(a), b.state_dict(), fc.Uniform(), data=data, n=4)
        np.testing.assert_array_equal(sweep.loss, losses)
        rebuilt = sweep.rebuild(2)
        assert type(rebuilt) is MLP
        assert same(rebuilt.state_dict(), mix[2])


def test_weights_that_wrappers_save_are_weights_of_what_is_inside(pair):
    a, b = pair
    expected = fc.Mixture(a, b, fc.Uniform())[3]
    names = "a state dict: names are read without what a wrapper put into them, such as 'module.1.weight' as"
    for wrap, notices in ((nn.DataParallel, [names]), (AveragedModel, ["'n_averaged'", names])):
        for other in (wrap(b), wrap(b).state_dict()):
            notice.forget()
            with pytest.warns(fc.BackendNotice) as told:
                assert same(fc.Mixture(wrap(a).state_dict(), other, fc.Uniform())[3], expected)
            assert len(told) == len(notices)
            assert all(text in str(entry.message) for text, entry in zip(notices, told, strict=True))


def test_a_file_is_told_of_once(pair, data, tmp_path):
    a, b = pair
    torch.save({"model": wrapped(a.state_dict(), "module.")}, tmp_path / "a.pt")
    with pytest.warns(fc.BackendNotice) as told:
        found = fc.barrier(tmp_path / "a.pt", b, data=data, points=3)
    assert [str(entry.message).partition("a.pt")[2][:10] for entry in told] == [" is a trai", ": names ar"]
    assert found.loss.tolist() == fc.barrier(a, b, data=data, points=3).loss.tolist()


def test_rare_fractions_of_wrapped_networks(pair, data):
    def fraction(model):
        mix = fc.Mixture(*pair, fc.Uniform(per="model"))
        return fc.rare_fraction(mix, "loss", 1.65, model=model, data=data, n=100, repeats=2, progress=False)

    assert fraction(nn.DataParallel(pair[0])).value == fraction(pair[0]).value


def test_aligning_wrapped_networks(pair):
    expected = fc.rebasin.align(*pair).state_dict
    found = fc.rebasin.align(*map(nn.DataParallel, pair))
    assert same(found.state_dict, expected)
    assert type(found.model) is MLP


# training checkpoints


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_the_only_state_dict_of_a_training_checkpoint_is_read(pair, tmp_path, key):
    a, b = pair
    optimiser = torch.optim.AdamW(a.parameters())
    a(torch.randn(3, 7)).sum().backward()
    optimiser.step()
    state = {name: value.clone() for name, value in a.state_dict().items()}
    record = {
        "epoch": 7,
        key: a.state_dict(),
        "optimizer": optimiser.state_dict(),
        "scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "rng": {"cpu": torch.get_rng_state()},
        "best": torch.tensor(0.9),
    }
    torch.save(record, tmp_path / "a.ckpt")
    with pytest.warns(fc.BackendNotice, match=rf"a.ckpt is a training .*, of which the entry '{key}'"):
        assert same(network(tmp_path / "a.ckpt"), state)
    with pytest.raises(TypeError, match=rf"training checkpoint, not a state dict; pass theta_a\['{key}'\]"):
        fc.Mixture(record, b, fc.Uniform())
    with pytest.raises(TypeError, match=rf"pass theta_b\[0\]\['{key}'\]"):
        fc.Mixture(b, [{key: a}], fc.Uniform())


def test_several_state_dicts_are_told_apart_by_the_model_or_refused(pair, tmp_path):
    a, b = (model.state_dict() for model in pair)
    path = tmp_path / "gan.pt"
    torch.save({"generator": wrapped(a, "module."), "critic": nn.Linear(7, 1).state_dict()}, path)
    with pytest.raises(ValueError, match=r"several state dicts, 'generator', 'critic'; .*\['generator'\]"):
        network(path)
    with pytest.warns(fc.BackendNotice) as told:
        assert same(network(path, pair[1]), a)
    assert "the entry 'generator' is read" in str(told[0].message)
    assert "'module.1.weight' as '1.weight'" in str(told[1].message)
    torch.save({"model": a, "ema": b}, path)
    with pytest.raises(ValueError, match="several state dicts, 'model', 'ema'"):
        network(path, pair[1])
    with pytest.raises(TypeError, match=r"pass theta_a\['model'\] or theta_a\['ema'\]"):
        network({"model": a, "ema": b}, pair[1])


def test_entries_that_are_no_tensors_are_named(pair, tmp_path):
    state = pair[0].state_dict()
    torch.save(state | {"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(TypeError, match=r"theta_a \(\S*a.pt\): 'epoch' is a int, not a tensor"):
        network(tmp_path / "a.pt", pair[0])
    with pytest.raises(TypeError, match="'w' is a ndarray of object, not a tensor"):
        network({"w": np.array([None])})
    with pytest.raises(TypeError, match="entry 0, whose name is a int"):
        network({0: torch.ones(2)})
    torch.save({"run": {"weights": {"deep": state}}}, tmp_path / "a.pt")
    with pytest.raises(TypeError, match="'run' is a dict, not a tensor"):
        network(tmp_path / "a.pt")


def test_faults_of_a_file_name_the_file(pair, tmp_path):
    save_file(MLP((7, 9, 3, 5)).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"theta_a \(\S*a.safetensors\) does not fit the model: '1.weight'"):
        network(tmp_path / "a.safetensors", pair[0])
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"theta_b\[1\] \(\S*b.pt\): 'w' has 1 values that are NaN"):
        fc.Mixture({"w": torch.ones(1)}, [{"w": torch.ones(1)}, tmp_path / "b.pt"], fc.Dirichlet())


# what entries are


def test_counters_of_profilers_are_left_out(pair):
    state = pair[0].state_dict()
    counted = {"total_ops": torch.zeros(1, dtype=torch.float64)} | state
    counted |= {"1.total_ops": torch.ones(1, dtype=torch.float64), "1.total_params": torch.ones(1)}
    for model in (None, pair[1]):
        notice.forget()
        with pytest.warns(fc.BackendNotice, match="left out, 'total_ops', '1.total_ops', '1.total_params'"):
            assert same(network(counted, model), state)
    own = {"total_ops": torch.ones(3)}  # not one number
    assert same(network(own), own)
    with pytest.raises(ValueError, match=r"does not know: 'extra.num_batches_tracked'"):
        network(state | {"extra.num_batches_tracked": torch.tensor(3)}, pair[1])


def test_arrays_and_parameters_become_tensors(pair):
    state = pair[0].state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    assert same(network(arrays, pair[1]), state)
    assert same(network(dict(pair[0].named_parameters()), pair[1]), state)
    odd = {
        "flipped": np.arange(6, dtype=np.float32).reshape(2, 3)[::-1, ::-2],
        "big": np.arange(3, dtype=">f4"),
        "fixed": np.broadcast_to(np.float32(2), (3,)),
        "scalar": np.array(2.5),
    }
    found = network(odd)
    for name, value in odd.items():
        np.testing.assert_array_equal(found[name].numpy(), value)


class Sub(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.to_sparse(), "layout torch.sparse_coo.*to_dense"),
        (lambda t: t.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn, which is not mixed"),
        (lambda t: t.to("meta"), "on the meta device"),
        (lambda t: torch.Tensor._make_subclass(Sub, t), "is a Sub; pass plain tensors"),
    ],
)
def test_tensors_that_cannot_be_mixed_are_refused_by_name(make, message):
    linear = nn.Linear(4, 3)
    state = linear.state_dict()
    state["weight"] = make(state["weight"])
    for model in (None, nn.Linear(4, 3)):
        with pytest.raises(ValueError, match=f"theta_a: 'weight' .*{message}"):
            network(state, model)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_quantized_networks_are_refused(tmp_path):
    value = torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.quint8)
    with pytest.raises(ValueError, match="'w' is quantized"):
        network({"w": value, "v": torch.ones(3)})
    linear = nn.Linear(3, 3)
    linear.register_buffer("table", value)
    with pytest.raises(ValueError, match="'table' is quantized"):
        network(linear)


def test_a_sparse_buffer_is_carried():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("adjacent", torch.eye(5).roll(1, 0).to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.adjacent, self.layer(x))

    a, b = Graph(), Graph()
    found = network(a.state_dict(), b)
    assert torch.equal(found["adjacent"].to_dense(), a.adjacent.to_dense())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes_may_differ(pair, dtype):
    a, b = (model.state_dict() for model in pair)
    other = {name: value.to(dtype) for name, value in b.items()}
    mix = fc.Mixture(a, other, fc.Constant(1.0, per="model"), model=pair[0])
    assert all(torch.equal(mix[0][name], other[name].float()) for name in other)


def test_integers_where_the_model_has_weights_are_refused(pair):
    state = pair[0].state_dict()
    for kind in (torch.int8, torch.complex64):
        bad = state | {"3.weight": state["3.weight"].to(kind)}
        with pytest.raises(
            ValueError, match=rf"other kinds .*'3.weight' is {kind}, in the model torch.float32"
        ):
            network(bad, pair[1])


def test_buffers_are_carried_in_the_models_kind():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.norm = nn.BatchNorm1d(3)
            self.register_buffer("mask", torch.tensor([True, False, True]))
            self.register_buffer("places", torch.tensor([2, 1, 0]))

        def forward(self, x):
            return self.norm(self.layer(x))[:, self.places] * ~self.mask

    model = Masked()
    state = {name: value.float() for name, value in model.state_dict().items()}  # as some averages are kept
    state["norm.num_batches_tracked"] = torch.tensor(2.5)
    found = network(state, Masked())
    assert found["mask"].dtype == torch.bool
    assert torch.equal(found["mask"], model.mask)
    assert torch.equal(found["places"], model.places)
    assert found["places"].dtype == torch.int64
    with pytest.raises(ValueError, match=r"'places' is torch.float32, in the model torch.int64"):
        network(state | {"places": torch.tensor([0.5, 1, 2])}, Masked())
    with pytest.raises(ValueError, match=r"does not fit the model: 'places' \(2,\), model \(3,\)"):
        network(state | {"places": torch.tensor([1, 2])}, Masked())


def test_buffers_that_are_missing_are_told():
    a, b = Tiny10(), Tiny10()
    with pytest.warns(fc.BackendNotice, match=r"a state dict lacks buffers, .* taken: 'bn1.running_mean'"):
        mix = fc.Mixture(a, dict(b.named_parameters()), fc.Uniform())
    assert torch.equal(mix.networks["theta_b"].carried["bn1.running_mean"], a.bn1.running_mean)


# modules with a way of their own


class Versioned(nn.Module):
    """Scales were stored as logarithms before version 3, as real libraries changed what they store."""

    _version = 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x):
        return self.layer(x) * self.scale

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        version = metadata.get("version")
        if version is None:
            raise ValueError("no version")
        if version < 3:
            state[f"{prefix}scale"] = state[f"{prefix}scale"].exp()
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_what_modules_note_in_state_dicts_is_kept(tmp_path):
    a, b = Versioned(), Versioned()
    x = torch.randn(6, 4)
    data = (x, torch.randint(0, 3, (6,)))
    torch.save(a.state_dict(), tmp_path / "a.pt")
    save_file(a.state_dict(), tmp_path / "a.safetensors")  # which keeps no versions
    expected = fc.Mixture(a, b, fc.Uniform())[4]
    for theta in (a, a.state_dict(), tmp_path / "a.pt", tmp_path / "a.safetensors"):
        sweep = fc.evaluate(theta, b, fc.Uniform(), data=data, n=5)
        assert same(sweep.rebuild(4).state_dict(), expected)
        fresh = Versioned()
        fresh.load_state_dict(sweep.mixture[4])
        assert same(fresh.state_dict(), expected)
    fc.evaluate(tmp_path / "a.safetensors", b, fc.Uniform(), data=data, n=5, out=tmp_path / "run")
    assert same(fc.open_sweep(tmp_path / "run", model=b).rebuild(4).state_dict(), expected)
    parallel = nn.DataParallel(a).state_dict()
    with pytest.warns(fc.BackendNotice, match="module.scale' as 'scale'"):
        without = fc.Mixture(parallel, parallel, fc.Constant(0.0))[0]
    fresh.load_state_dict(without)
    assert same(fresh.state_dict(), a.state_dict())


def test_old_checkpoints_are_read_as_the_module_reads_them(tmp_path):
    a = Versioned()
    old = a.state_dict()
    old["scale"] = old["scale"].log()
    old._metadata[""]["version"] = 2
    torch.save(old, tmp_path / "old.pt")
    fresh = Versioned()
    fresh.load_state_dict(torch.load(tmp_path / "old.pt", weights_only=True))
    expected = fresh.state_dict()
    assert not torch.equal(expected["scale"], old["scale"])
    assert same(network(tmp_path / "old.pt", a), expected)
    torch.save(nn.ModuleDict({"module": a}).state_dict(), tmp_path / "new.pt")
    with pytest.warns(fc.BackendNotice, match="'module.scale' as 'scale'"):
        assert same(network(tmp_path / "new.pt", Versioned()), a.state_dict())


def test_names_of_old_weight_norm_are_read_by_torchs_own_rule():
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    old = {"weight_g": torch.rand(3, 1), "weight_v": plain.weight, "bias": plain.bias}
    fresh = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    fresh.load_state_dict(dict(old))
    assert same(network(old, normed), fresh.state_dict())
    with pytest.raises(ValueError, match="lacks parameters of the model: 'bias'"):
        network({n: v for n, v in old.items() if n != "bias"}, normed)
    with pytest.raises(ValueError, match="does not know: 'other'"):
        network(old | {"other": torch.ones(2)}, normed)
    with pytest.raises(ValueError, match=r"theta_a is refused by .*load_state_dict: .*size mismatch"):
        network(old | {"bias": torch.ones(2)}, normed)


def test_torchvisions_mnasnet_takes_its_combinations(vision):
    a, b = (vision.mnasnet0_5(weights=None, num_classes=4) for _ in range(2))
    mix = fc.Mixture(a.state_dict(), dict(b.state_dict()), fc.Uniform(), model=a)
    a.load_state_dict(mix[3])  # which refuses state dicts without a version
    assert same(a.state_dict(), mix[3])
    b.load_state_dict(fc.Mixture(b, b, fc.Constant(1.0))[0])
    for name, value in mix.networks["theta_b"].parameters.items():
        assert torch.equal(value, b.state_dict()[name])


# several networks


def test_lists_may_hold_paths_texts_and_weights(pair, data, tmp_path):
    a, b = pair
    torch.save(a.state_dict(), tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "c.ckpt")
    save_file(b.state_dict(), tmp_path / "b.safetensors")
    expected = fc.Mixture(a, [b, a], fc.Dirichlet())[6]
    for others in (
        [tmp_path / "b.safetensors", str(tmp_path / "c.ckpt")],
        (b.state_dict(), tmp_path / "c.ckpt"),
    ):
        assert same(fc.Mixture(tmp_path / "a.pt", others, fc.Dirichlet())[6], expected)
    one = fc.Mixture(str(tmp_path / "a.pt"), [tmp_path / "b.safetensors"], fc.Uniform())
    assert same(one[6], fc.Mixture(a, b, fc.Uniform())[6])
    sweep = fc.evaluate(tmp_path / "a.pt", tmp_path / "b.safetensors", fc.Uniform(), data=data, n=4, model=a)
    np.testing.assert_array_equal(sweep.loss, fc.evaluate(a, b, fc.Uniform(), data=data, n=4).loss)
