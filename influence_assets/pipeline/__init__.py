"""From a study to its results, step by step: what each step reads, computes and writes. Knows no Dagster.

`graph` lists the steps; `versions` says which version of each partition the study asks for; `plan` what is outstanding;
the other modules hold one group of steps each.
"""
