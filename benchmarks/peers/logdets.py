"""Log-determinants by stochastic Lanczos quadrature of other packages, in an environment of theirs.

This file is both sides: `answers` runs it once more with the Python of that environment, writes a
request to its standard input and reads the answer from its output, both as JSON. A package that
is missing or fails answers with its error. `environments.py` makes the environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring.processes import with_benchmarks

PEERS = ("imate", "scikit-primate", "matfree")


def answers(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask a package for log-determinants.

    Parameters
    ----------
    folder : Path
        Of the environment.
    request : dict
        ``package``; ``matrix``: the path of an ``.npy`` or a SciPy ``.npz``; ``degree`` and
        ``probes``, whose product is the number of matrix-vector products; ``seeds``.

    Returns
    -------
    dict
        ``values``, one a seed, ``version`` and ``seconds``; or ``error``.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        return {
            "error": f"there is no environment in {folder}: python -m benchmarks.peers.environments"
        }
    command = [str(python), "-m", "benchmarks.peers.logdets"]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False,
        env=with_benchmarks(),
    )  # fmt: skip
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr else "no message"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def by_imate(a: Any, degree: int, probes: int, seed: int) -> float:
    """One thread, because its seeds mean nothing with more; no early end."""
    import imate

    options = {"min_num_samples": probes, "max_num_samples": probes, "lanczos_degree": degree}
    return float(imate.logdet(a, method="slq", num_threads=1, seed=seed + 1, **options))


def by_primate(a: Any, degree: int, probes: int, seed: int) -> float:
    """Without reorthogonalisation, which is biased here: the basis of the last probe is kept."""
    from primate.operators import MatrixFunction
    from primate.trace import hutch

    f = MatrixFunction(a, fun="log", deg=degree, orth=0)
    return float(hutch(f, batch=probes, converge="count", count=probes, seed=seed))


def by_matfree(a: Any, degree: int, probes: int, seed: int) -> float:
    """In double precision and with full reorthogonalisation, as its documentation advises."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return float(_matfree_estimator(a.shape[0], degree, probes)(_jax(a), jax.random.key(seed)))


_KEPT: dict[Any, Any] = {}
"""What is made once for all seeds: compiled estimators, and the matrix as JAX has it."""


def _matfree_estimator(n: int, degree: int, probes: int) -> Any:
    import jax
    from matfree import decomp, funm, stochtrace

    if (n, degree, probes) not in _KEPT:
        integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(degree))
        sampler = stochtrace.sampler_signs(jax.numpy.ones(n), num=probes)
        estimate = stochtrace.estimator_monte_carlo(integrand, sampler=sampler)
        _KEPT[n, degree, probes] = jax.jit(lambda a, key: estimate(lambda v: a @ v, key))
    return _KEPT[n, degree, probes]


def _jax(a: Any) -> Any:
    import jax
    from jax.experimental.sparse import BCOO
    from scipy.sparse import issparse

    if id(a) not in _KEPT:
        _KEPT[id(a)] = BCOO.from_scipy_sparse(a) if issparse(a) else jax.numpy.asarray(a)
    return _KEPT[id(a)]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request, in the environment of the peers."""
    from importlib.metadata import version

    import numpy as np
    from scipy.sparse import csr_matrix, load_npz

    methods = dict(zip(PEERS, (by_imate, by_primate, by_matfree), strict=True))
    path = request["matrix"]
    a = csr_matrix(load_npz(path)) if path.endswith(".npz") else np.load(path)
    started = time.perf_counter()
    method, split = methods[request["package"]], (request["degree"], request["probes"])
    values = [method(a, *split, seed) for seed in request["seeds"]]
    return {
        "values": values,
        "version": version(request["package"]),
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
