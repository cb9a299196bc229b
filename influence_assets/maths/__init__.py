"""Pure functions on tensors, in the papers' letters. They use no models, files or Dagster."""
