"""Embeddings of sampled answers, in every library."""

import array_api_strict
import numpy as np
import pytest
import torch

LIBRARIES = {
    "numpy": np.asarray,
    "torch": lambda x: torch.tensor(np.asarray(x)),
    "strict": array_api_strict.asarray,
}
library = pytest.mark.parametrize("to", LIBRARIES.values(), ids=LIBRARIES)


def embeddings(d, k, seed, *, distinct=None, scale=1.0):
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((d, k)) * scale + rng.standard_normal((d, 1))
    return e if distinct is None else e[:, np.arange(k) % distinct]
