"""Networks and data that several tests share."""

import os

import pytest
import torch
from torch import Tensor, nn

from fastcomb import notice
from fastcomb.models import MLP

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported
else:
    torch.backends.cudnn.allow_tf32 = False  # the reference's float32 is to be float32


@pytest.fixture(autouse=True)
def told_anew() -> None:
    """Notices are told once in a process; here once in a test."""
    notice.forget()


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
