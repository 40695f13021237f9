"""Literal textbook versions, on dense NumPy matrices: slow, and easy to believe."""

import numpy as np

FUNCTIONS = {
    "log": np.log,
    "exp": np.exp,
    "inv": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "xlogx": lambda x: x * np.log(x),
    "square": np.square,
}
"""The functions that have a name."""


def philox4x32_10(counter, key):
    """Salmon et al. 2011, with Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (p1 >> 32) ^ c[1] ^ k[0],
            p1 & 0xFFFFFFFF,
            (p0 >> 32) ^ c[3] ^ k[1],
            p0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def sign(i, r, key, stream=0):
    """Entry (i, r) of the probes: bit i & 31 of word (i >> 5) & 3 of counter i >> 7."""
    block = i >> 7
    counter = (block & 0xFFFFFFFF, block >> 32, r & 0xFFFFFFFF, stream)
    word = philox4x32_10(counter, (key & 0xFFFFFFFF, key >> 32))[(i >> 5) & 3]
    return 1 - 2 * ((word >> (i & 31)) & 1)


def chebyshev_polynomial(k, x):
    return np.cos(k * np.arccos(np.clip(x, -1, 1)))


def chebyshev_moments(a, v, count, low, high):
    """``v^H T_k(B) v / v^H v`` by all eigenvalues."""
    eigenvalues, vectors = np.linalg.eigh(a)
    weights = np.abs(vectors.conj().T @ v) ** 2
    t = (2 * eigenvalues - (low + high)) / (high - low)
    return np.array([chebyshev_polynomial(k, t) @ weights / weights.sum() for k in range(count)])


def lanczos(a, v, steps):
    """Arnoldi with full orthogonalisation: the tridiagonal ``Q^H A Q``."""
    q = [v / np.linalg.norm(v)]
    for _ in range(steps - 1):
        w = a @ q[-1]
        for _ in range(2):
            for u in q:
                w = w - u * (u.conj() @ w)
        q.append(w / np.linalg.norm(w))
    q = np.array(q).T
    return q.conj().T @ a @ q


def function_times(a, f, b):
    """``f(A) B``."""
    eigenvalues, vectors = np.linalg.eigh(a)
    return vectors * f(eigenvalues) @ (vectors.conj().T @ b)


def quadratic_form(a, v, f):
    """``v^H f(A) v / v^H v``."""
    eigenvalues, vectors = np.linalg.eigh(a)
    weights = np.abs(vectors.conj().T @ v) ** 2
    return f(eigenvalues) @ weights / weights.sum()


def jackson_density(moments, x, low, high):
    """Weiße et al. 2006, eqs. 17, 21 and 71."""
    n = len(moments)
    t = (2 * x - (low + high)) / (high - low)
    total = np.zeros_like(x)
    for k, mu in enumerate(moments):
        g = (n - k + 1) * np.cos(np.pi * k / (n + 1))
        g += np.sin(np.pi * k / (n + 1)) / np.tan(np.pi / (n + 1))
        total += (1 if k == 0 else 2) * g / (n + 1) * mu * chebyshev_polynomial(k, t)
    return total / (np.pi * np.sqrt(1 - t**2)) * 2 / (high - low)


def _others(tests, i):
    return np.delete(tests, i, axis=1)


def xtrace(a, tests):
    """The m estimates: a basis from all test vectors but one, and that one on the complement."""
    n, m = tests.shape
    found = []
    for i in range(m):
        q, _ = np.linalg.qr(a @ _others(tests, i))
        outside = tests[:, i] - q @ (q.conj().T @ tests[:, i])
        quotient = outside.conj() @ a @ outside / np.linalg.norm(outside) ** 2
        found.append(np.trace(q.conj().T @ a @ q) + (n - m + 1) * quotient)
    return np.array(found)


def xnystrace(a, tests):
    """The m estimates: Nyström's approximation from all test vectors but one, and that one."""
    n, m = tests.shape
    found = []
    for i in range(m):
        rest, own = _others(tests, i), tests[:, i]
        y = a @ rest
        approximation = y @ np.linalg.solve(rest.conj().T @ y, y.conj().T)
        q, _ = np.linalg.qr(rest)
        share = (n - m + 1) / np.linalg.norm(own - q @ (q.conj().T @ own)) ** 2
        left = own.conj() @ (a - approximation) @ own
        found.append(np.trace(approximation) + share * left)
    return np.array(found)


def xdiag(a, tests):
    """The m estimates, in columns."""
    found = []
    for i in range(tests.shape[1]):
        q, _ = np.linalg.qr(a @ _others(tests, i))
        inside = q @ (q.conj().T @ a)
        found.append(np.diag(inside) + tests[:, i].conj() * ((a - inside) @ tests[:, i]))
    return np.array(found).T


def leave_one_out_error(estimates, tests):
    """The geometric mean of the scatter's error and the jackknife's, for the mean of estimates."""
    m = tests.shape[1]
    scatter = np.std(estimates(tests), ddof=1) / np.sqrt(m)
    without = [estimates(_others(tests, i)).mean() for i in range(m)]
    jackknife = np.sqrt(np.sum(np.abs(without - np.mean(without)) ** 2) * m / (m - 1))
    return np.sqrt(scatter * jackknife)
