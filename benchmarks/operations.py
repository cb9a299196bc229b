"""Multiplications and additions that a stage cannot do without, counted from the model's widths.

A pass is forward and the gradients of activations; products of two matrices count 2·m·n·k. Everything that is not a
matrix product (norms, softmax, losses, squares) is left out, so that a count is a lower limit.
"""

from benchmarks.cases import Size


def counted(size: Size, stage: str) -> float:
    """Operations of a stage, its queries included."""
    sequences, queries = size.sequences_of(stage), size.queries_of(stage)
    fits = sequences * (_pass(size, size.tokens) + _covariances(size))
    corrections = sequences * (_pass(size, size.tokens) + _corrections(size))
    asked = queries * query_part(size)
    scored = sequences * score_pass(size, queries)
    decompositions = sum(9 * width**3 for widths in layers(size) for width in widths)
    return {
        "training_step": sequences * training_step(size),
        "covariances": fits,
        "eigendecomposition": decompositions,
        "corrected_eigenvalues": corrections,
        "sketches": corrections,
        "scores_32": asked + scored,
        "scores_512": asked + scored,
        "second_scores_32": asked,
        "total": fits + decompositions + corrections + asked + scored,
    }[stage]


def training_step(size: Size) -> float:
    """Forward and full backward of one sequence."""
    return _pass(size, size.tokens) + 2 * size.tokens * _weights(size)


def score_pass(size: Size, queries: int) -> float:
    """One training sequence's pass, its gradients, and their products with all queries."""
    gradients = sum(2 * size.tokens * d_out * d_in for d_out, d_in in layers(size))
    return _pass(size, size.tokens) + gradients + sum(2 * queries * d_out * d_in for d_out, d_in in layers(size))


def limit(size: Size, stage: str) -> float | None:
    """Operations of a stage's pass over its training sequences in training steps; queries' own part left out."""
    sequence = {
        "covariances": _pass(size, size.tokens) + _covariances(size),
        "corrected_eigenvalues": _pass(size, size.tokens) + _corrections(size),
        "scores_32": score_pass(size, size.queries_of("scores_32")),
        "scores_512": score_pass(size, size.queries_of("scores_512")),
    }.get(stage)
    return None if sequence is None else sequence / training_step(size)


def query_part(size: Size) -> float:
    """A query's pass, its gradient, and the inverse curvature times it: two rotations there and two back."""
    gradients = sum(2 * size.query_tokens * d_out * d_in for d_out, d_in in layers(size))
    inverse = sum(4 * d_out * d_in * (d_out + d_in) for d_out, d_in in layers(size))
    return _pass(size, size.query_tokens) + gradients + inverse


def layers(size: Size) -> list[tuple[int, int]]:
    """(d_out, d_in) of the attributed layers, the bias's column included."""
    return [(4 * size.width, size.width + 1), (size.width, 4 * size.width + 1)] * size.layers


def _weights(size: Size) -> int:
    """Numbers in the matrices that every token is multiplied with: 12 width² a block, and the head."""
    return size.layers * 12 * size.width**2 + size.width * size.vocabulary


def _pass(size: Size, tokens: int) -> float:
    attention = 4 * tokens**2 * size.width * size.layers  # queries with keys, weights with values
    return 4 * tokens * _weights(size) + 3 * attention


def _covariances(size: Size) -> float:
    """One triangle of A and S."""
    return sum(size.tokens * (d_out**2 + d_in**2) for d_out, d_in in layers(size))


def _corrections(size: Size) -> float:
    """The rotated gradient of a sequence; each side's rotation before the sum over tokens or after it."""
    total = 0
    for d_out, d_in in layers(size):
        rotations = d_in**2 * min(size.tokens, d_out) + d_out**2 * min(size.tokens, d_in)
        total += 2 * size.tokens * d_out * d_in + 2 * rotations
    return total
