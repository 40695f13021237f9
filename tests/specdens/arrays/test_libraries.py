"""The border to array libraries: sums over many rows, products in full precision."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from specdens import aslinearoperator
from specdens.arrays.libraries import _column_sums, matmul


def test_sums_of_many_rows_in_single_precision(backend):
    """NumPy's running sum over 10^6 equal rows is off by more than 1e-3; two levels are not."""
    x = np.full((10**6 + 7, 2), 0.1, np.float32)
    x[:, 1] = np.float32(1 / 3)
    sums = np.asarray([float(s) for s in _column_sums(backend.xp, backend(x))])
    assert sums == pytest.approx(x.astype(np.float64).sum(axis=0), rel=1e-5)
    assert abs(np.sum(x, axis=0)[0] / 100000.7 - 1) > 1e-3


class Observed(torch.Tensor):
    """A tensor whose products note what Torch was told of the precision of float32."""

    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in {"__matmul__", "matmul"}:
            places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
            cls.seen += [place.fp32_precision for place in places]
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def precision_of_torch():
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for place in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        place.fp32_precision = "none"


@pytest.mark.parametrize("set_by", ["matmul", "everything", "precision"])
@pytest.mark.usefixtures("precision_of_torch")
def test_float32_is_not_rounded_further_whatever_torch_is_told(set_by):
    if set_by == "matmul":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    elif set_by == "everything":
        torch.backends.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("medium")
    places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    assert "tf32" in before
    Observed.seen.clear()
    a = torch.eye(3).as_subclass(Observed)
    aslinearoperator(a).matmat(torch.ones(3, 2))
    assert not {"tf32", "bf16"} & set(Observed.seen)
    assert Observed.seen
    assert [place.fp32_precision for place in places] == before
    with pytest.raises(RuntimeError):
        matmul(a, torch.ones(2, 2))
    assert [place.fp32_precision for place in places] == before
    if set_by == "everything":  # what followed it follows it still
        torch.backends.fp32_precision = "ieee"
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
