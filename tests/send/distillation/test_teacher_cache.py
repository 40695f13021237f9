"""The space that a cache takes."""

import torch

from send.distillation.divergence import top_k
from send.distillation.teacher_cache import TeacherCache


def test_the_cache_takes_the_space_that_is_said(tmp_path):
    cache = TeacherCache(tmp_path, {}, rows=10)
    indices, log_probs = top_k(torch.randn(10_000, 100, generator=torch.manual_seed(0)), 64)
    cache.write(0, [1000] * 10, indices, log_probs)
    size = next(tmp_path.glob("rows-*")).stat().st_size
    assert 0 <= size - 386 * 10_000 < 1000
