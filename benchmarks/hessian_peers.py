"""Spectra of a Hessian by curvlinops and PyHessian, in an environment of theirs, kept running.

This file is both sides, of JSON lines: `Peer` asks, the process answers with the seconds of the
call alone: the model, the operator and the graph that PyHessian keeps are made before. The script
itself makes the environment, with the Torch of constraints.txt:

    python benchmarks/hessian_peers.py FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).parent
INPUTS, HIDDEN, CLASSES, SAMPLES = 784, 512, 10, 1000


@cache
def problem() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Return a perceptron of 407,050 parameters and its data: the same ones in each process."""
    generator = torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    inputs = torch.randn(SAMPLES, INPUTS, generator=generator)
    return model, (inputs, torch.randint(0, CLASSES, (SAMPLES,), generator=generator))


def prepare(folder: Path) -> None:
    """Make the environment; where that fails, the message is what a request answers."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    wanted = [
        "-r",
        str(HERE / "requirements_hessian.txt"),
        "-c",
        str(HERE.parent / "constraints.txt"),
    ]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        (folder / "failed.txt").write_text(done.stderr)
        print(done.stderr, file=sys.stderr)


class Peer:
    """The running process of an environment.

    Attributes
    ----------
    found : dict
        The last answer to each request, by its text.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, dict[str, dict[str, Any]]()
        self._process: subprocess.Popen[str] | None = None

    def seconds(self, request: dict[str, Any]) -> float:
        """Answer a request; raise a RuntimeError with what went wrong."""
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended without an answer"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        self.found[json.dumps(request)] = answer
        return float(answer["seconds"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _started(self) -> subprocess.Popen[str]:
        python, failed = self.folder / "bin" / "python", self.folder / "failed.txt"
        if failed.exists() or not python.exists():
            message = failed.read_text().strip() if failed.exists() else "no environment"
            msg = f"{message.splitlines()[-1]}: python benchmarks/hessian_peers.py FOLDER"
            raise RuntimeError(msg)
        return subprocess.Popen(
            [str(python), __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip


@cache
def _curvlinops_operator() -> Any:
    from curvlinops import HessianLinearOperator

    model, data = problem()
    return HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [data])


def by_curvlinops(request: dict[str, Any]) -> Callable[[], list[float]]:
    """Its stochastic Lanczos quadrature; without ``bounds`` they are found by ARPACK."""
    from curvlinops.papyan2020traces import spectrum

    a, seen = _curvlinops_operator(), []
    lanczos = vars(spectrum)["_lanczos"] = vars(spectrum).get("_lanczos", spectrum.fast_lanczos)

    def noting(*arguments: Any) -> Any:
        seen.append(lanczos(*arguments))
        return seen[-1]

    def work() -> list[float]:
        spectrum.fast_lanczos = noting
        bounds = request.get("bounds")
        spectrum.lanczos_approximate_spectrum(
            a, request["steps"], num_repeats=request["probes"],
            boundaries=None if bounds is None else tuple(bounds),
        )  # fmt: skip
        return [float(value) for values, _ in seen for value in values]

    return work


@cache
def _pyhessian_problem() -> Any:
    from pyhessian import hessian

    model, data = problem()
    return hessian(model, nn.CrossEntropyLoss(), data=data, cuda=False)


def by_pyhessian(request: dict[str, Any]) -> Callable[[], list[float]]:
    """Its density, with the function that it calls and Torch has no longer put in its place."""
    computation = _pyhessian_problem()

    def eig(a: torch.Tensor, *, eigenvectors: bool) -> Any:
        values, vectors = torch.linalg.eigh(a)
        return values[:, None], vectors

    torch.eig = eig  # type: ignore[attr-defined]

    def work() -> list[float]:
        values, _ = computation.density(iter=request["steps"], n_v=request["probes"])
        return [float(value) for of_probe in values for value in of_probe]

    return work


PACKAGES = {"curvlinops-for-pytorch": by_curvlinops, "pyhessian": by_pyhessian}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request, in the environment of the peers."""
    from importlib.metadata import version

    work = PACKAGES[request["package"]](request)
    started = time.perf_counter()
    ritz = work()
    spent = time.perf_counter() - started
    return {
        "seconds": spent,
        "extremes": [min(ritz), max(ritz)],
        "version": version(request["package"]),
    }


def serve() -> None:
    """Answer requests until the input ends; what packages print is no answer."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as problem_:
            found = {"error": f"{type(problem_).__name__}: {problem_}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        prepare(Path(sys.argv[1]))
