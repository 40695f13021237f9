"""Other packages in environments of their own, kept running: a process that answers JSON lines.

It keeps the matrices it has read and reports the seconds of the call alone, so that the calls of
several packages can be timed in turn. `environments.py` makes the environments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring.processes import with_benchmarks
from benchmarks.measuring.timing import Job, Unavailable


class Peer:
    """A running process of an environment.

    Parameters
    ----------
    folder : Path
        Of the environment. One that is missing or broken shows when it is asked.

    Attributes
    ----------
    answers : dict
        The last answer to each request, by its text.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers = folder, dict[str, dict[str, Any]]()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request: ``seconds``, ``value`` and ``version``.

        Raises
        ------
        Unavailable
            With what the package or its installation said.
        """
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            msg = f"the process of {request['package']} in {self.folder} ended without an answer"
            raise Unavailable(msg)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        self.answers[json.dumps(request)] = answer
        return answer

    def job(self, request: dict[str, Any], *, times: float = 1) -> Job:
        """Return a request as a job, its seconds scaled."""
        return lambda: times * float(self.ask(request)["seconds"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        python = self.folder / "bin" / "python"
        if not python.exists():
            msg = (
                f"there is no environment in {self.folder}: python -m benchmarks.peers.environments"
            )
            raise Unavailable(msg)
        return subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.server"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=with_benchmarks(),
        )  # fmt: skip


def imate(a: Any, request: dict[str, Any]) -> float:
    """All threads unless told, no early end, its default: no orthogonalisation."""
    import imate as package

    all_threads = int(os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())))
    probes, threads = request["probes"], request.get("threads", all_threads)
    options = {"min_num_samples": probes, "max_num_samples": probes, "num_threads": threads}
    options |= {"lanczos_degree": request["degree"], "seed": request["seed"] + 1}
    return float(package.logdet(a, method="slq", **options))


def primate(a: Any, request: dict[str, Any]) -> float:
    """As `logdets.py` calls it."""
    from benchmarks.peers.logdets import by_primate

    return by_primate(a, request["degree"], request["probes"], request["seed"])


def matfree(a: Any, request: dict[str, Any]) -> float:
    """As `logdets.py` calls it, compiled."""
    from benchmarks.peers.logdets import by_matfree

    return by_matfree(a, request["degree"], request["probes"], request["seed"])


def kwant(a: Any, request: dict[str, Any]) -> float:
    """The density of states, its integral; without ``bounds`` they are found by ARPACK."""
    from kwant.kpm import SpectralDensity

    bounds = request.get("bounds")
    found = SpectralDensity(
        a, num_vectors=request["probes"], num_moments=request["moments"], rng=request["seed"],
        bounds=None if bounds is None else tuple(bounds),
    )  # fmt: skip
    return float(abs(found.integrate()))


def curvlinops(_: Any, request: dict[str, Any]) -> list[float]:
    """Its stochastic Lanczos quadrature: the extreme Ritz values."""
    from benchmarks.peers.hessian import by_curvlinops

    return by_curvlinops(request["steps"], request["probes"], request.get("bounds"))


def pyhessian(_: Any, request: dict[str, Any]) -> list[float]:
    """Its density: the extreme Ritz values."""
    from benchmarks.peers.hessian import by_pyhessian

    return by_pyhessian(request["steps"], request["probes"])


PACKAGES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "imate": imate, "scikit-primate": primate, "matfree": matfree, "kwant": kwant,
    "curvlinops-for-pytorch": curvlinops, "pyhessian": pyhessian,
}  # fmt: skip


def serve() -> None:
    """Answer requests until the input ends; what packages print is no answer."""
    from importlib.metadata import version

    answers, sys.stdout = sys.stdout, sys.stderr
    matrices: dict[str | None, Any] = {None: None}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            path, package = request.get("matrix"), request["package"]
            a = matrices[path] if path in matrices else matrices.setdefault(path, _matrix(path))
            started = time.perf_counter()
            value = PACKAGES[package](a, request)
            spent = time.perf_counter() - started
            answer = {"seconds": spent, "value": value, "version": version(package)}
        except Exception as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer), file=answers, flush=True)


def _matrix(path: str) -> Any:
    import numpy as np
    from scipy.sparse import csr_matrix, load_npz

    return csr_matrix(load_npz(path)) if path.endswith(".npz") else np.load(path)


if __name__ == "__main__":
    serve()
