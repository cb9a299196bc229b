"""A made-up method, added from this one file: V without its part along the mean gradient of the training sequences.

With m = E_z[∇L(z)] over all layers, P = V − (⟨V, m⟩ / ⟨m, m⟩) m, so that the scores of a query add up to zero.
"""

from influence_assets.methods.method import AttributionMethod


def prepare(V, context):
    m = mean_gradient(context)
    squared = sum((part * part).sum() for part in m.values())
    along = sum((V[name] * m[name]).sum((1, 2)) for name in m) / squared
    return {name: V[name] - along[:, None, None] * m[name] for name in m}


def mean_gradient(context):
    """m of every layer, in the eigenbases."""
    total, count = {}, 0
    bases = context.runner.placed(context.bases)

    def consumer(_batch):
        def consume(layer, terms):
            gradient = terms.gradients(bases[layer.name]).sum(0).to(context.runner.device)
            total[layer.name] = total.get(layer.name, 0) + gradient

        return consume

    for sequences in context.training.all():
        context.runner.run(sequences, consumer)
        count += len(sequences)
    return {name: part / count for name, part in total.items()}


METHOD = AttributionMethod(name="centred", unit=None, prepare=prepare, reads_training=True)
