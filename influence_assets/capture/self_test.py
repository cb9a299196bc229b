"""A minute of numerics on a study's own model and text, before the long run: what can be trusted, and what to set.

Everything is compared with the model in float64, and that with plain autograd. Whether a model is causal, and whether
sequences see each other, is asked of the model in float64, where what is rounded is far below what matters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.dependence import embedded, reach, spoken
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.errors import InputError
from influence_assets.maths.notation import device_of_sums, in_float64
from influence_assets.models.adapters import adapter_matrices
from influence_assets.models.devices import input_device
from influence_assets.models.dimensions import length_limits, total_parameters
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.study import Dtype

Level = Literal["good", "rough", "bad"]

EXACT = 1e-4
"""The largest relative error in float64 that is rounding; some models compute parts in float32 whatever they are in."""

SPEARMAN_GOOD, SPEARMAN_ROUGH = 0.99, 0.95
SHARE_GOOD = 0.1
DRAWS = 8192
DEVIATIONS = 6.0
"""Of the frequency of a word; one in a billion draws departs further."""

FREQUENT = 1e-3
"""Words with at least this probability are counted one by one, all others together."""


class Line(NamedTuple):
    """A property that was measured.

    Args:
        what: the property.
        measured: what was found.
        level: `bad` makes the scores wrong or useless; `rough` is worth a look.
        advice: what to set, empty if nothing.
    """

    what: str
    measured: str
    level: Level
    advice: str = ""


class Loaded(NamedTuple):
    """A model in one precision, with its attributed layers."""

    model: PreTrainedModel
    layers: Sequence[AttributedLayer]


@dataclass(frozen=True)
class _Measured:
    gradients: dict[str, Tensor]
    scores: np.ndarray


def self_test(
    load: Callable[[Dtype], Loaded], dtype: Dtype, sequences: Sequences, queries: Sequences, seed: int
) -> Iterator[Line]:
    """Yield each property as soon as it is measured.

    Args:
        load: loads the model in a precision, frozen.
        dtype: the study's precision.
        sequences: some of the training sequences, at least two.
        queries: some of the queries.
        seed: of the sampled labels.
    """
    exact = load("float64")
    yield _share(exact)
    yield _causality(exact.model, sequences)
    yield _padding(exact.model, sequences)
    yield _neighbours(exact, sequences)
    yield _rehearsal(exact)
    yield _autograd(exact, sequences)
    expected = _measure(exact, sequences, queries)
    del exact
    for other in dict.fromkeys((dtype, "float32", "bfloat16")):
        if other == "float64":
            continue
        loaded = load(other)
        yield _precision(_measure(loaded, sequences, queries), expected, other, of_study=other == dtype)
        if other == dtype:
            yield _labels(loaded.model, sequences, seed)
        del loaded
    if dtype == "float64":
        yield _labels(load(dtype).model, sequences, seed)


def _share(loaded: Loaded) -> Line:
    attributed = sum(layer.parameters for layer in loaded.layers)
    matrices = adapter_matrices(loaded.model)
    of = "the adapter's matrices" if matrices else "the parameters"
    total = total_parameters(loaded.model)
    if matrices:
        total = sum(p.numel() for name in matrices for p in loaded.model.get_submodule(name).parameters())
    share = attributed / total
    advice = "" if share >= SHARE_GOOD else "Attribute more layers, such as curvature.modules: linear."
    return Line(f"share of {of} attributed", f"{share:.1%}", "rough" if advice else "good", advice)


def _causality(model: PreTrainedModel, sequences: Sequences) -> Line:
    """Ask how much what is said before the last token changes with it, by values and by gradients."""
    tokens = _tokens(model, sequences, int(np.argmax(sequences.lengths)))
    changed = tokens.clone()
    changed[0, -1] = tokens[0, 0] if tokens[0, 0] != tokens[0, -1] else tokens[0, 1]
    with torch.no_grad():
        moved = _apart(spoken(model, changed)[:, :-1], spoken(model, tokens)[:, :-1])
    with torch.enable_grad(), embedded(model) as embeddings:
        reached = reach(spoken(model, tokens)[:, :-1], embeddings, tokens)
    if reached is not None and float(reached.max()) > 0:
        moved = max(moved, float(reached[0, -1] / reached.max()))
    return Line("causal: what the last token changes before it", f"{moved:.1e}", *_verdict(
        moved, "Use a causal language model: config.json of models like BERT needs `is_decoder: true`."
    ))  # fmt: skip


def _padding(model: PreTrainedModel, sequences: Sequences) -> Line:
    """Compare a sequence with itself followed by other tokens, as padding is.

    It becomes as long as in a batch, which keeps lengths apart where a model computes something else for long ones.
    """
    row = int(np.argmin(sequences.lengths))
    sides = np.searchsorted(np.array(length_limits(model.config)), sequences.lengths)
    tokens = _tokens(model, sequences, row)
    longest = int(sequences.lengths[sides == sides[row]].max())
    others = _tokens(model, sequences, int(np.argmax(sequences.lengths)))
    if longest == tokens.shape[1]:  # all are as long
        tokens = tokens[:, : longest // 2]
    padded = torch.cat([tokens, others[:, : longest - tokens.shape[1]]], dim=1)
    with torch.no_grad():
        apart = _apart(spoken(model, padded)[:, : tokens.shape[1]], spoken(model, tokens))
    return Line("padding: what tokens after a sequence change", f"{apart:.1e}", *_verdict(
        apart, "Set compute.batch_sequences to 1."
    ))  # fmt: skip


def _neighbours(loaded: Loaded, sequences: Sequences) -> Line:
    """Compare what is said about sequences in one batch with what is said about each alone."""
    length = int(sequences.lengths.min())
    tokens = torch.cat([_tokens(loaded.model, sequences, row)[:, :length] for row in range(len(sequences))])
    with torch.no_grad():
        together = spoken(loaded.model, tokens)
        alone = torch.cat([spoken(loaded.model, row[None]) for row in tokens])
    apart = _apart(together, alone)
    return Line("batch: what its other sequences change", f"{apart:.1e}", *_verdict(
        apart, "Set compute.batch_sequences to 1."
    ))  # fmt: skip


def _rehearsal(loaded: Loaded) -> Line:
    try:
        rehearse(loaded.model, loaded.layers)
    except InputError as error:
        return Line("rehearsal on a few tokens", error.problem, "bad", f"{error.where}: {error.remedy}")
    return Line("rehearsal on a few tokens", "every layer as its rule says", "good")


def _autograd(loaded: Loaded, sequences: Sequences) -> Line:
    """Compare a sequence's gradient with that of autograd for the layers' own parameters."""
    what = "a sequence's gradient against autograd"
    first = sequences.take(np.array([int(np.argmax(sequences.lengths))]))
    try:
        found = query_gradients(Runner(loaded.model, loaded.layers, 1), first).layers
    except InputError as error:
        return Line(what, error.problem, "bad", f"{error.where}: {error.remedy}")
    tokens = _tokens(loaded.model, first, 0)
    parameters = {p: None for layer in loaded.layers for p in layer.module.parameters(recurse=False)}
    for p in parameters:
        p.requires_grad = True
    try:
        with torch.enable_grad():
            logp = spoken(loaded.model, tokens)[0, :-1].log_softmax(-1)
            total = logp.gather(1, tokens[0, 1:, None].to(logp.device)).sum()
            gradients = torch.autograd.grad(total, list(parameters), allow_unused=True)
    finally:
        for p in parameters:
            p.requires_grad = False
    by_parameter = {p: torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)}
    expected = {
        layer.name: layer.as_matrix(
            {name: by_parameter[p] for name, p in layer.module.named_parameters(recurse=False)}
        )[None]
        for layer in loaded.layers
    }
    apart = _apart_in_all(found, expected)
    return Line(what, f"{apart:.1e}", *_verdict(
        apart, "Leave out layers whose weights are used elsewhere too, by naming others in curvature.modules."
    ))  # fmt: skip


def _measure(loaded: Loaded, sequences: Sequences, queries: Sequences) -> _Measured:
    runner = Runner(loaded.model, loaded.layers)
    V = query_gradients(runner, queries).layers
    dot = scores(runner, sequences, {"dot": V}, 1)["dot"]
    return _Measured({name: G.cpu().double() for name, G in V.items()}, dot)


def _precision(found: _Measured, expected: _Measured, dtype: Dtype, *, of_study: bool) -> Line:
    from scipy.stats import spearmanr  # takes long to import

    apart = _apart_in_all(found.gradients, expected.gradients)
    ranks = [float(spearmanr(a, b).statistic) for a, b in zip(found.scores, expected.scores, strict=True)]
    worst = min((rank if np.isfinite(rank) else 0.0 for rank in ranks), default=0.0)
    level: Level = "good" if worst >= SPEARMAN_GOOD else "rough" if worst >= SPEARMAN_ROUGH else "bad"
    measured = f"gradients {apart:.1e} apart, ranks of scores {worst:.3f} alike at worst"
    if not of_study:
        return Line(f"{dtype} against float64", measured, "good" if level == "good" else "rough")
    better = "float32" if dtype == "bfloat16" else "float64"
    return Line(
        f"{dtype} (model.dtype) against float64",
        measured,
        level,
        "" if level == "good" else f"Set model.dtype: {better}.",
    )


def _labels(model: PreTrainedModel, sequences: Sequences, seed: int) -> Line:
    """Compare the frequencies of labels that are drawn at one position with the model's probabilities there."""
    tokens = _tokens(model, sequences, 0)
    with torch.no_grad():
        p = spoken(model, tokens)[0, -1].float().softmax(-1).cpu()
    sampler = LabelSampler(seed)
    length = sequences.tokens.shape[1]
    keys = tuple(range(-(-DRAWS // (length - 1))))
    everywhere = torch.ones((len(keys), length), dtype=torch.long)
    counted = everywhere.bool()
    counted[:, -1] = False
    batch = Batch(
        everywhere, everywhere.sum(1), counted, keys, np.arange(len(keys)), counted.flatten().nonzero()[:, 0], len(keys)
    )
    uniforms = sampler.uniforms(batch)[:DRAWS]
    at_once = max(1, 2**24 // len(p))
    drawn = torch.cat([sampler.draw(p.expand(len(part), -1), part) for part in torch.split(uniforms, at_once)])
    frequency = torch.bincount(drawn, minlength=len(p)).double() / len(drawn)
    rare = p < FREQUENT
    expected = torch.cat([p[~rare].double(), p[rare].double().sum()[None]])
    found = torch.cat([frequency[~rare], frequency[rare].sum()[None]])
    deviation = ((found - expected).abs() / (expected * (1 - expected) / len(drawn)).clamp_min(1e-12).sqrt()).max()
    level: Level = "good" if float(deviation) <= DEVIATIONS else "bad"
    return Line(
        "sampled labels: frequency against probability",
        f"{float(deviation):.1f} standard deviations at most",
        level,
        "" if level == "good" else "Set curvature.fisher: empirical, and report this.",
    )


def _tokens(model: PreTrainedModel, sequences: Sequences, row: int) -> Tensor:
    """Return one sequence without padding, [1, token]."""
    tokens = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))[None]
    return tokens.to(input_device(model))


def shortened(sequences: Sequences, tokens: int) -> Sequences:
    """Return the sequences without what is after so many tokens."""
    return replace(sequences, tokens=sequences.tokens[:, :tokens], lengths=np.minimum(sequences.lengths, tokens))


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value; masked words do not count."""
    counted = expected.isfinite() & found.isfinite() & (expected.abs() < 1e8)
    return float((found - expected)[counted].abs().max() / expected[counted].abs().max())


def _apart_in_all(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the differences of all layers' gradients, relative to the norm of the gradients."""
    differences = (
        in_float64(found[name]) - in_float64(G).to(device_of_sums(found[name].device)) for name, G in expected.items()
    )
    apart = sum(float(difference.square().sum()) for difference in differences)
    return float(np.sqrt(apart / max(sum(float(G.square().sum()) for G in expected.values()), 1e-300)))


def _verdict(apart: float, advice: str) -> tuple[Level, str]:
    return ("good", "") if apart <= EXACT else ("bad", advice)
