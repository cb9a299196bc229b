"""Measurements of the model: hooks, passes, losses, and the sums taken over each layer.

A `runner.Runner` holds the model with its attributed layers and runs it batch by batch, with one `passes` pass for each
batch and the `hooks` that record layers' inputs and output gradients. A measurement, such as `covariance` or `scores`,
is a `participant.Participant`: `one_pass.measure` runs the sequences through the model once and drives all the
participants that are given to it.
"""
