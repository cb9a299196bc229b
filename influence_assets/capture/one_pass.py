"""All measurements of training sequences, from one forward pass and the backward passes that they need.

With sampled labels these are two: one with the sampled labels, for the curvature's statistics, and one with the data's
own, for sketches and scores. If both use the data's own labels, one is enough.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner, refuse_not_finite
from influence_assets.maths.curvature import Basis
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.models.freed_memory import release_unused
from influence_assets.models.layers.rule import AttributedLayer


def measure(
    runner: Runner,
    sequences: Sequences,
    participants: Sequence[Participant],
    bases: Mapping[str, Basis],
    sampler: LabelSampler | None,
) -> None:
    """Run all participants over the sequences, batch after batch.

    Log-likelihoods are read when all batches are done, because reading a number makes the host wait for the device.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        participants: the measurements to take.
        bases: the eigenbasis of every layer; empty if no participant needs one.
        sampler: draws the labels for the curvature's statistics; None takes the data's own.

    Raises:
        FloatingPointError: a log-likelihood is not finite.
    """
    if runner.memory_bytes is not None:
        release_unused()  # of the shard before
    bases = runner.placed(bases)
    fitting = [participant for participant in participants if participant.fits]
    attributing = [participant for participant in participants if not participant.fits]
    for participant in participants:
        others = (other for other in attributing if other is not participant)
        is_rotated_anyway = any(other.rotates for other in others)
        participant.begin(runner, bases, sequences.tokens.shape[1], is_rotated_anyway=is_rotated_anyway)
    buffers = GradientBuffers()
    by_length = not any(participant.in_order for participant in participants)
    likelihoods: list[Tensor] = []
    for batch, forward in runner.passes(sequences, by_length=by_length):
        if fitting and attributing and sampler is None:
            likelihoods.append(forward.backward(_consumer(participants, bases, batch, buffers)))
        else:
            if fitting:
                consume = _consumer(fitting, bases, batch, buffers)
                likelihoods.append(forward.backward(consume, sampler=sampler, then=[None] if attributing else []))
            if attributing:
                likelihoods.append(forward.backward(_consumer(attributing, bases, batch, buffers)))
        for participant in participants:
            participant.end_batch()
    if likelihoods:
        refuse_not_finite(torch.cat(likelihoods).cpu().double().numpy())


def _consumer(
    participants: Sequence[Participant], bases: Mapping[str, Basis], batch: Batch, buffers: GradientBuffers
) -> Consumer:
    def consume(linear: AttributedLayer, terms: GradientTerms) -> None:
        for layer in LayerGradient(linear.name, terms, bases.get(linear.name), buffers).blocks():
            for participant in participants:
                participant.add(batch, layer)

    return consume
