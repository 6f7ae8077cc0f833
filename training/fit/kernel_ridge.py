"""The system that the gain router is fitted by: (K + I) alpha = target, by preconditioned conjugate gradients.

K is the sum of a dense part, either exact (n x n) or of low rank (phi phi'), and the TF-IDF kernel, which is never
formed. The preconditioner is the inverse of phi phi' + (1 + term_kernel) I, by Woodbury. phi is float32 and the largest
thing there is: nothing here makes a copy of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator, cg

from training.data.labels import DataError
from training.fit.terms import TermRows

Vector = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.floating[Any]]

VARIANCE_RANK = 64
TOLERANCE = 1e-6  # of the residual; about ten iterations
MAX_ITERATIONS = 500

__all__ = ["root_of_inverse", "solve", "variance_taken"]


def root_of_inverse(kernel: Matrix) -> Vector:
    """T with T T' = the (pseudo-)inverse of the landmarks' kernel, shape (landmarks, rank)."""
    values, vectors = np.linalg.eigh(kernel.astype(np.float64))
    large = values > 1e-6 * values[-1]
    root: Vector = vectors[:, large] / np.sqrt(values[large])
    return root


def solve(
    exact: Matrix | None, rows: TermRows, phi: Floats, gram: Matrix, target: Vector, term_kernel: float
) -> Vector:
    """alpha, shape (n,). `gram` is phi' phi; `exact` stands for phi phi' where it is given. DataError if it takes more
    than MAX_ITERATIONS.
    """
    shift = 1 + term_kernel
    inner = np.linalg.inv(gram + shift * np.eye(len(gram)))

    def conditioned(vector: Vector) -> Vector:
        inside = inner @ (phi.T @ vector.astype(np.float32))
        solved: Vector = (vector - phi @ inside.astype(np.float32)) / shift
        return solved

    def times(vector: Vector) -> Vector:
        dense = phi @ (phi.T @ vector.astype(np.float32)) if exact is None else exact @ vector
        return vector + dense + term_kernel * rows.times(rows.transposed_times(vector))

    shape = (len(target), len(target))
    alpha, unfinished = cg(
        LinearOperator(shape, matvec=times, dtype=np.float64),
        target,
        rtol=TOLERANCE,
        maxiter=MAX_ITERATIONS,
        M=LinearOperator(shape, matvec=conditioned, dtype=np.float64),
    )
    if unfinished or not np.isfinite(alpha).all():
        raise DataError("the fit does not converge: choose smaller kernels, or weights that differ less")
    return np.asarray(alpha, np.float64)


def variance_taken(gram: Matrix) -> Vector:
    """R, shape (rank of phi, r): what the labels take of the dense kernels' variance at phi's row z is |z R|^2, on its
    largest parts.
    """
    values, vectors = np.linalg.eigh(gram)
    largest = np.argsort(-values)[:VARIANCE_RANK]
    kept = np.maximum(values[largest], 0)
    taken: Vector = vectors[:, largest] * np.sqrt(kept / (1 + kept))
    return taken
