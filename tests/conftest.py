"""Networks and data that several tests share, and what keeps tests from depending on one another.

A test's result must not depend on the processor, the number of threads, how busy the machine is, or which
tests ran before. So every test begins with the same random numbers, no notice told yet and new memory full of
NaN, and must leave the process as it found it. ``--seed N`` changes the tests' order and random numbers.
"""

import math
import os
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import register_random, settings
from torch import Tensor, nn

from fastcomb.models import MLP
from fastcomb.sweep import run
from fastcomb.utils import notice

# Processes that tests start import this tree, whatever is installed and wherever they run.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

# The same examples in every run; others with --hypothesis-profile=others. No files in the present folder.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.register_profile("others", database=None, deadline=None)
settings.load_profile("same")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported
else:
    torch.backends.cudnn.allow_tf32 = False  # the reference's float32 is to be float32


class TorchRandom:
    """torch's own generator, as hypothesis wants it: each example begins with the same numbers."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # kept alive: hypothesis holds it weakly
register_random(TORCH_RANDOM)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=0, help="of random numbers that no test seeds; not 0: shuffle the tests"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the files, and in each its tests; fixtures of a file are still made once."""
    seed = config.getoption("--seed")
    if seed:
        shuffled = random.Random(seed)
        files = sorted({item.path for item in items})
        place = {file: shuffled.random() for file in files}
        items.sort(key=lambda item: (place[item.path], shuffled.random()))


def sow(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> object:
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        sow(request.config.getoption("--seed"))
    return (yield)


def circumstances() -> dict[str, object]:
    """What no test may change for those after it."""
    # torch sets its own on the way
    names = {name for name in os.environ if not name.startswith(("PYTEST_", "TORCHINDUCTOR_"))}
    return {f"${name}": os.environ[name] for name in names} | {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "floating-point errors": np.geterr(),
        "folder": os.getcwd(),
        "interrupts": signal.getsignal(signal.SIGINT),
        "warnings": warnings.showwarning,
    }


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest):
    """A test begins like the first one of a process, and leaves no trace."""
    notice.forget()
    sow(request.config.getoption("--seed"))
    before = circumstances()
    yield
    after = circumstances()
    names = before.keys() | after.keys()
    changed = {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }
    assert not changed, f"left changed: {changed}"


@pytest.fixture(scope="session", autouse=True)
def unhurried():
    """Parts of runs do not end because some seconds have passed, on busy machines sooner than on others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_FIRST_PART", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def uninitialised():
    """New memory holds NaN, so that what nobody wrote is not 0 by luck."""

    def filled(make):
        def made(*arguments, **options):
            new = make(*arguments, **options)
            return new.fill_(math.nan) if new.is_floating_point() else new

        return made

    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            patch.setattr(place, name, filled(getattr(place, name)))
        yield


@pytest.fixture(scope="session")
def vision():
    """torchvision.models; from the package index it needs its compiled operators declared."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor a, Tensor b, float c) -> Tensor",
        "qnms(Tensor a, Tensor b, float c) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    pytest.importorskip("torchvision", exc_type=ImportError)
    import torchvision.models

    yield torchvision.models
    del library


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """Two MLPs of odd widths, from different seeds."""
    torch.manual_seed(0)
    return MLP((7, 63, 3, 5)).eval(), MLP((7, 63, 3, 5)).eval()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """100 samples for ``pair``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(100, 7, generator=generator), torch.randint(0, 5, (100,), generator=generator)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """24 random images for the convolutional models."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(24, 3, 32, 32, generator=generator), torch.randint(0, 10, (24,), generator=generator)


@pytest.fixture(params=["native", "torch_reference"])
def backend(request) -> str:
    """Every backend that runs here."""
    return str(request.param)
