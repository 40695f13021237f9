"""The command line: ``specdens logdet|trace|dos|info FILE``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import specdens
from specdens.determinants.exact_logdet import is_cheap
from specdens.exact.factorizations import predicted_lu_bytes
from specdens.files import MatrixFileError, read_matrix
from specdens.operators.sparse import SparseOperator
from specdens.problem.prepare import prepare

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default those of the process.

    Returns
    -------
    int
        The exit code: 0, or 2 with one line on standard error.
    """
    options = _parser().parse_args(arguments)
    if getattr(options, "seed", 0) is None:
        options.seed = secrets.randbits(64)  # one for all that a command runs
    if getattr(options, "plot", None) and importlib.util.find_spec("matplotlib") is None:
        print("specdens: --plot needs matplotlib: pip install 'specdens[plot]'", file=sys.stderr)
        return 2
    try:
        matrix = read_matrix(options.file)
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", specdens.AccuracyWarning)
            report = options.run(matrix, options)
    except (MatrixFileError, ValueError, TypeError, MemoryError) as error:
        print(f"specdens: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for doubt in doubts:
        print(f"specdens: {doubt.message}", file=sys.stderr)
    try:
        _print(report, as_json=options.json)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(report), indent=2, allow_nan=False))
        return
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:{width}} {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="specdens", description=specdens.__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=specdens.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "logdet", _logdet, "log|det(A + shift I)| and its sign")
    _add(commands, "trace", _trace, "tr A, or tr f(A) with --function")
    _add(commands, "dos", _dos, "density of states")
    _add(commands, "info", _info, "what can be said of the matrix before any work")
    return parser


def _add(
    commands: Any, name: str, run: Callable[[Any, argparse.Namespace], dict[str, Any]], text: str
) -> None:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a .mtx, .npz (scipy.sparse) or .npy file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    if name == "info":
        return
    parser.add_argument("--moments", type=int, default=256 if name == "dos" else 20)
    parser.add_argument("--probes", type=int, default=None, help="default 20")
    parser.add_argument(
        "--method", default="auto", choices=("auto", "exact", "lanczos", "chebyshev")
    )
    parser.add_argument("--seed", type=int, default=None, help="the key of the probes")
    if name in {"logdet", "trace"}:
        parser.add_argument("--shift", type=float, default=0.0, help="added to the diagonal")
    if name == "trace":
        parser.add_argument("--function", default=None, help="log, exp, inv, sqrt, xlogx or square")
    parser.add_argument("--plot", metavar="OUT.png", default=None, help="write a picture")


def _logdet(matrix: Any, options: argparse.Namespace) -> dict[str, Any]:
    def run(moments: int, method: str) -> Any:
        return specdens.slogdet(
            matrix,
            moments=moments,
            probes=options.probes,
            method=method,
            shift=options.shift,
            rng=options.seed,
            return_info=True,
        )

    (sign, value), info = run(options.moments, options.method)
    if options.plot:
        _plot_convergence(lambda m: run(m, "lanczos")[1], info, options, "log|det(A + shift I)|")
    return {"logabsdet": float(value), "sign": _number(sign), **_about(info)}


def _trace(matrix: Any, options: argparse.Namespace) -> dict[str, Any]:
    if options.function is None:
        value, info = specdens.trace(
            _shifted(matrix, options.shift),
            probes=options.probes,
            method=options.method,
            rng=options.seed,
            return_info=True,
        )
        if options.plot:
            msg = "--plot draws convergence in moments, which the trace itself does not use"
            raise ValueError(msg)
        return {"trace": _number(value), **_about(info)}

    def run(moments: int, method: str) -> Any:
        return specdens.trace_function(
            matrix,
            options.function,
            moments=moments,
            probes=options.probes,
            method=method,
            shift=options.shift,
            rng=options.seed,
            return_info=True,
        )

    value, info = run(options.moments, options.method)
    if options.plot:
        _plot_convergence(
            lambda m: run(m, "lanczos")[1], info, options, f"tr {options.function}(A)"
        )
    return {"trace": _number(value), **_about(info)}


def _shifted(matrix: Any, shift: float) -> Any:
    if not shift:
        return matrix
    from scipy.sparse import eye_array, issparse

    n = matrix.shape[0]
    return matrix + shift * (eye_array(n) if issparse(matrix) else np.eye(n))


def _dos(matrix: Any, options: argparse.Namespace) -> dict[str, Any]:
    rho = specdens.density(
        matrix,
        moments=options.moments,
        probes=options.probes,
        method=options.method,
        rng=options.seed,
    )
    if options.plot:
        from specdens.plotting import plot_cumulative, plot_density

        def draw(axes: Any) -> None:
            plot_density(rho, ax=axes[0])
            plot_cumulative(rho, ax=axes[1])

        _save(options.plot, draw, 2)
    x = rho.energies(128)
    return {
        "bounds": list(rho.bounds),
        "moments": len(rho.moments),
        "method": rho.method,
        "matvecs": rho.matvecs,
        "quantiles": dict(zip(QUANTILES, rho.quantile(QUANTILES).tolist(), strict=True)),
        "energies": x.tolist() if options.json else f"{len(x)} with --json",
        "density": rho(x).tolist() if options.json else f"{len(x)} with --json",
        "stderr": rho.stderr(x).tolist() if options.json else f"{len(x)} with --json",
    }


QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def _info(matrix: Any, options: argparse.Namespace) -> dict[str, Any]:
    from scipy.sparse import issparse

    del options
    sparse: bool = issparse(matrix)
    report: dict[str, Any] = {
        "shape": list(matrix.shape),
        "dtype": str(matrix.dtype),
        "format": matrix.format if sparse else "dense",
        "stored": int(matrix.nnz if sparse else matrix.size),
        "finite": bool(np.all(np.isfinite(matrix.data if sparse else matrix))),
    }
    if matrix.shape[0] != matrix.shape[1] or not report["finite"] or 0 in matrix.shape:
        return report
    problem = prepare(matrix)
    report["hermitian"] = problem.hermitian
    if problem.hermitian:
        bounds = specdens.spectral_bounds(matrix, rng=0)
        report["gershgorin"] = list(problem.known)
        report["bounds"] = list(bounds)
    if isinstance(problem.op, SparseOperator):
        csc = problem.op.csc_on_host()
        report["predicted_lu_bytes"] = round(predicted_lu_bytes(csc, hermitian=problem.hermitian))
    report["logdet_auto"] = "exact" if is_cheap(problem) else "lanczos"
    return report


def _plot_convergence(
    run: Callable[[int], Any], info: Any, options: argparse.Namespace, quantity: str
) -> None:
    """Draw what fewer moments would have given, with the exact value if it is known."""
    from specdens.plotting import plot_convergence

    steps = sorted({max(1, options.moments * k // 4) for k in (1, 2, 3, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)  # the intervals are drawn
        runs = [run(m) for m in steps]
    truth = float(info) if info.method == "exact" else None

    def draw(axes: Any) -> None:
        ax = plot_convergence(steps, runs, truth=truth, ax=axes[0], label="95 % interval")
        if truth is not None:
            ax.lines[-1].set_label("exact")
        ax.set_title(quantity)
        ax.set_ylabel(quantity)
        ax.legend()

    _save(options.plot, draw, 1)


def _save(path: str, draw: Callable[[Any], Any], panels: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(axes)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise ValueError(msg) from None


def _about(info: Any) -> dict[str, Any]:
    real = not isinstance(info.value, complex)
    return {
        "stderr": info.stderr,
        "bias_bound": info.bias_bound,
        "interval_95": list(info.interval(0.95)) if real else None,
        "converged": info.converged,
        "method": info.method,
        "matvecs": info.matvecs,
        "samples": info.samples,
        "seed": info.seed,
    }


def _number(value: Any) -> float | str:
    value = complex(value)
    return str(value) if value.imag else value.real


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: its numbers have no infinity and no NaN."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
