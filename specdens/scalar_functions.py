"""The functions f of ``tr f(A)``, and what is known of the signs of their derivatives.

If every even derivative of f is positive, the Gauss rule is below the truth; if every odd one (from
some order on) has a sign too, the Gauss-Radau rule with a node at one end is on the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["INV", "LOG", "LOG_ABS", "ScalarFunction", "require_domain", "scalar_function"]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ScalarFunction:
    """A function of a real variable.

    Attributes
    ----------
    name : str
    apply : callable
        ``apply(xp, x)``: on an array of a namespace; for a caller's own f, NumPy only.
    domain : {"positive", "nonnegative", "real"}
        Where it is defined.
    bracket : {"low", "high", None}
        The end at which a Gauss-Radau node gives the bound opposite to Gauss's, if it does.
    pole : bool
        Whether it is infinite at 0.
    degree : int or None
        Of a polynomial.
    derivative : callable, optional
        f' like `apply`, for gradients.
    own : bool
        Whether it is the caller's, so that nothing is known of it.
    """

    name: str
    apply: Callable[[Any, Any], Any]
    domain: str = "real"
    bracket: str | None = None
    pole: bool = False
    degree: int | None = None
    own: bool = False
    derivative: Callable[[Any, Any], Any] | None = None

    def on_host(self, x: Host) -> Host:
        """Return f(x) for small NumPy arrays; a caller's f must give one finite value a point."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            y = np.asarray(self.apply(np, x))
        if not self.own:
            return y
        if y.shape != x.shape:
            msg = (
                f"f maps an array of shape {x.shape} to {y.shape}; expected a vectorised function."
            )
            raise ValueError(msg)
        if not np.all(np.isfinite(y)):
            bad = x[~np.isfinite(y)][0]
            msg = f"f({bad:.6g}) is not finite; f must be defined on the whole spectrum of A."
            raise ValueError(msg)
        return y

    def clipped(self, nodes: Host) -> Host:
        """Return nodes, with those that rounding puts below the domain ``x >= 0`` at 0."""
        return np.maximum(nodes, 0.0) if self.domain == "nonnegative" else nodes

    def prime(self) -> ScalarFunction:
        """Return the derivative, or raise a ValueError where nobody said what it is."""
        if self.derivative is None:
            msg = (
                f"the derivative of {self.name} is not known, which a gradient needs; "
                "pass a pair f=(f, derivative) of vectorised NumPy callables."
            )
            raise ValueError(msg)
        return ScalarFunction(
            f"the derivative of {self.name}", self.derivative, self.domain, own=self.own
        )


def _log(xp: Any, x: Any) -> Any:
    return xp.log(x)


def _xlogx(xp: Any, x: Any) -> Any:
    safe = xp.where(x > 0, x, xp.ones_like(x))
    return x * xp.log(safe)


def _inverse(_: Any, x: Any) -> Any:
    return 1 / x


LOG = ScalarFunction("log", _log, "positive", "low", pole=True, derivative=_inverse)

LOG_ABS = ScalarFunction("log|x|", lambda xp, x: xp.log(xp.abs(x)), pole=True, derivative=_inverse)

INV = ScalarFunction(
    "inv", _inverse, "real", "low", pole=True, derivative=lambda _, x: -1 / (x * x)
)

NAMED = {
    "log": LOG,
    "exp": ScalarFunction(
        "exp", lambda xp, x: xp.exp(x), "real", "high", derivative=lambda xp, x: xp.exp(x)
    ),
    "inv": INV,
    "sqrt": ScalarFunction(
        "sqrt", lambda xp, x: xp.sqrt(x), "nonnegative", "low",
        derivative=lambda xp, x: 0.5 / xp.sqrt(x),
    ),
    "xlogx": ScalarFunction(
        "xlogx", _xlogx, "nonnegative", "low", derivative=lambda xp, x: xp.log(x) + 1
    ),
    "square": ScalarFunction(
        "square", lambda _, x: x * x, "real", "high", degree=2, derivative=lambda _, x: 2 * x
    ),
}  # fmt: skip


def scalar_function(f: Any) -> ScalarFunction:
    """Return what ``f=`` names, or wraps."""
    if isinstance(f, str):
        if f not in NAMED:
            msg = f"f is {f!r}; expected one of {', '.join(NAMED)}, or a vectorised NumPy callable."
            raise ValueError(msg)
        return NAMED[f]
    pair = f if isinstance(f, tuple) and len(f) == 2 else (f,)
    if not all(callable(part) for part in pair):
        msg = (
            f"f is of type {type(f).__name__}; expected a name, a vectorised NumPy callable, or a "
            "pair of them: f and its derivative."
        )
        raise TypeError(msg)
    value, *more = (_keeping_to_itself(part) for part in pair)
    return ScalarFunction("f", value, own=True, derivative=more[0] if more else None)


def _keeping_to_itself(f: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a caller's function work in place or in a buffer of its own: neither is ours."""

    def apply(_: Any, x: Any) -> Any:
        return np.array(f(x.copy())) if isinstance(x, np.ndarray) else f(x)

    return apply


def require_domain(f: ScalarFunction, low: float, noise: float) -> None:
    """Raise a ValueError if an eigenvalue is so negative that rounding cannot explain it."""
    if f.domain != "real" and low < -noise:
        msg = (
            f"A has a negative eigenvalue ({low:.6g} or less), where {f.name} is not defined. "
            "logdet(A) gives log|det A| of any square matrix; shift= moves the spectrum."
        )
        raise ValueError(msg)
