"""What tests of compiled code share."""

import pytest

from specdens.operators import sparse


@pytest.fixture
def for_small_ones(monkeypatch):
    """Compiled code for matrices of any size."""
    monkeypatch.setattr(sparse, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)
