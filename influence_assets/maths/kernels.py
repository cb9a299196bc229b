"""The libraries that compute on a processor, where several can: which one is fastest differs between machines."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kernels:
    """A choice of libraries.

    Args:
        eigenvectors: what decomposes symmetric matrices: SciPy's LAPACK or torch's.
        products: what multiplies matrices in float32: oneDNN, or the BLAS that torch itself calls.
    """

    eigenvectors: Literal["scipy", "torch"] = "scipy"
    products: Literal["onednn", "torch"] = "onednn"


_chosen = Kernels()


def chosen() -> Kernels:
    """Return the choice of this process."""
    return _chosen


def choose(kernels: Kernels) -> None:
    """Use these libraries from now on in this process."""
    global _chosen  # one choice for every product of the process
    _chosen = kernels
