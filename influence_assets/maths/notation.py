"""The symbol table of all formulas in this package, with the axis names of their shapes.

| letter | meaning | shape |
|---|---|---|
| a      | input of a linear layer, with a 1 appended if it has a bias | [sequence, token, d_in] |
| Ds     | gradient of the summed loss with respect to the layer's output | [sequence, token, d_out] |
| G      | gradient of the layer's weight, one for each sequence: Σ_t Ds_t a_tᵀ | [sequence, d_out, d_in] |
| A, S   | E_token[a aᵀ], E_token[Ds Dsᵀ] | [d_in, d_in], [d_out, d_out] |
| Q_A, Q_S | eigenvectors of A and S, in columns, by ascending eigenvalue | as A and S |
| Λ      | E_sequence[(Q_Sᵀ G Q_A)^∘2], the corrected eigenvalues | [d_out, d_in] |
| λ      | damping of the layer | scalar |
| U_A, U_S | leading ones of these, by descending eigenvalue (`low_rank.py`) | [d_in, r_A], [d_out, r_S] |
| σ      | mean of the eigenvalues outside of U_S ⊗ U_A (`low_rank.py`) | scalar |
| V      | gradient of f = log p(completion given prompt) | [query, d_out, d_in] |
| L, R   | rows whose outer products V is the sum of, V = Lᵀ R: Q_Sᵀ Ds_t and Q_Aᵀ a_t | [row, d_out], [row, d_in] |
| P      | what a method makes of V; EK-FAC: (G+λI)⁻¹ V | [query, d_out, d_in] |
| N      | number of training sequences | scalar |

In (G+λI), and wherever it is applied to a vector, G is the Gauss-Newton Hessian, as Grosse et al. write it; everywhere
else it is a sequence's gradient.

Where a few eigenvectors alone are kept (`low_rank.py`), V, P, L and R are in the model's own coordinates.

Where the outputs' side is words and stays as it is (`rows.py`), there is no S, Q_S is the identity, and A is
E_sequence[Gᵀ G].

A and S may be kept as diagonal blocks (`block_diagonal.py`); Q_A and Q_S then have the same blocks, each with its own
ascending eigenvalues.

The weight of every layer is [d_out, d_in], whatever the model's own class stores.
"""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Kinds of devices that cannot compute in float64."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that values of `dtype` are summed in: fixed, so that results do not depend on the run."""
    return torch.promote_types(dtype, torch.float32)


def device_of_sums(device: str | torch.device) -> torch.device:
    """Return the device on which values of a device are summed in float64: itself, or the CPU if it cannot."""
    there = torch.device(device)
    return torch.device("cpu") if there.type in WITHOUT_FLOAT64 else there


def in_float64(values: Tensor) -> Tensor:
    """Return values in float64, on their device if that can compute in it, else on the CPU."""
    return values.to(device_of_sums(values.device)).double()
