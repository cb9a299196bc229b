"""The curvature of a layer, in whichever form it is kept.

Both forms say in which coordinates gradients of the layer are kept, V and P among them: EK-FAC's are the eigenvectors,
where its curvature is diagonal; those of low rank are the model's own. The rest of the package asks no more.
"""

from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature

Basis = Eigenbasis | LowRankBasis

Curvature = LayerCurvature | LowRankCurvature
