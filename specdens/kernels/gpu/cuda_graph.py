"""Steps that are launched once and then replayed as a CUDA graph, where launching takes longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

__all__ = ["BELOW", "replayed"]

Tensor = torch.Tensor
Dots: TypeAlias = tuple[Tensor, Tensor]
Step: TypeAlias = Callable[[Tensor, Tensor, Any, Any, Any], Dots]

BELOW = 2**27
"""Bytes of memory traffic of a step: 50 microseconds or so, as long as launching it takes.

Larger steps hide their launches."""

AFTER = 8
"""Plain launches before a step is recorded, which takes as long as some launches."""


def recorded(launch: Callable[[], Dots]) -> tuple[Callable[[], object], Dots]:
    """Record what `launch` launches, without running it.

    Returns
    -------
    callable
        It runs the launches again, on the stream that is then current.
    tuple of tensor
        What they write.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # Torch's
    with torch.cuda.stream(stream):
        # What other threads do meanwhile is none of ours.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            written = launch()
        finally:
            graph.capture_end()
    return graph.replay, written


def replayed(
    step: Step, record: Callable[[Callable[[], Dots]], tuple[Callable[[], object], Dots]] = recorded
) -> Step:
    """Return a step that is recorded once for each pair of blocks and coefficients that come again.

    A Chebyshev recurrence has two: from x to y and from y to x. A step with coefficients by
    columns, as those of Lanczos, which differ each time, is launched as it was.
    """
    seen: dict[Any, int] = {}
    graphs: dict[Any, tuple[Callable[[], object], Dots]] = {}

    def again(x: Tensor, y: Tensor, a: Any, b: Any, c: Any) -> Dots:
        if any(np.ndim(number) for number in (a, b, c)):
            return step(x, y, a, b, c)
        key = (x.data_ptr(), y.data_ptr(), x.shape, float(a), float(b), float(c))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= AFTER:
            return step(x, y, a, b, c)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Torch's
            if key not in graphs:
                graphs[key] = record(lambda: step(x, y, a, b, c))
            replay, dots = graphs[key]
            replay()
            squares, mixed = torch.stack(dots)  # a copy: the next replay writes there again
        return squares, mixed

    return again
