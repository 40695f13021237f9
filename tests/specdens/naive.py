"""Literal textbook versions, on dense NumPy matrices: slow, and easy to believe."""

import numpy as np


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
