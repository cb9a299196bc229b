"""Which training data made a language model say this: EK-FAC influences as a Dagster pipeline."""
