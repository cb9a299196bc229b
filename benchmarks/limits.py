"""What the figures are held against, one line each: printed, not tested, as they depend on the machine."""

from collections.abc import Iterator

from benchmarks.rows import Row

FASTER = {"covariances": 1.3, "corrected_eigenvalues": 1.9, "scores_32": 1.8, "total": 1.7, "scores_512": 4.0}
TRAINING_STEPS = {"scores_32": 1.05, "covariances": 1.2, "corrected_eigenvalues": 1.35}
PEAK_MEMORY = 0.6
SECOND_SET = 100.0
GPU = 10.0


def lines(rows: list[Row]) -> list[str]:
    """Every limit that some row bears on."""
    ours = [row for row in rows if row["subject"] == "ours" and not row["variant"]]
    rotated = [row for row in rows if row["variant"] == "queries_rotated"]
    found = [line for row in ours for line in (*_faster(row), *_memory(row), *_steps(row))]
    found += [f"{line}, queries rotated" for row in rotated for line in _steps(row)]
    return found + [line for row in ours for line in _second(row, rows)] + [_share(row) for row in ours]


def kronfluence(row: Row) -> list[Row]:
    """What a row of ours says of kronfluence, for each query batch."""
    return [against for against in row["peers"] if against["subject"] == "kronfluence"]


def _faster(row: Row) -> Iterator[str]:
    needed = FASTER.get(row["stage"])
    if row["size"] == "gpt2":
        needed = GPU if row["stage"] == "total" else None
    if needed is None:
        return
    for against in kronfluence(row):
        batch = f", kronfluence {against['query_batch']} queries at once" if against["query_batch"] else ""
        for part in ("whole", "pass"):
            ratio = against[part]
            if ratio is None:
                continue
            scope = f"{row['size']} {row['stage']} ({part}{batch})"
            if not against["scores_agree"]:
                yield f"NO  {scope}: not compared, the scores do not agree ({row['agreement']})"
                continue
            met = ratio["median"] >= needed
            yield f"{_sign(met=met)} {scope}: {ratio['median']} times faster than kronfluence, {needed} wanted"


def _memory(row: Row) -> Iterator[str]:
    for against in kronfluence(row):
        share = against["peak_memory"]
        batch = f" ({against['query_batch']} at once)" if against["query_batch"] else ""
        own = against["peak_memory_beyond_libraries"]
        beyond = "not known" if own is None else f"{own:.2f} beyond the libraries"
        said = f"peak memory {share:.2f} of kronfluence's, {PEAK_MEMORY} wanted; {beyond}"
        yield f"{_sign(met=share <= PEAK_MEMORY)} {row['size']} {row['stage']}{batch}: {said}"


def _steps(row: Row) -> Iterator[str]:
    limit = TRAINING_STEPS.get(row["stage"])
    found = row["pass_training_steps"] or row["training_steps"]
    if limit is not None and found is not None:
        said = f"{found['median']} training steps, {limit} wanted"
        counted = f"{row['counted_training_steps']} counted from operations"
        yield f"{_sign(met=found['median'] <= limit)} {row['size']} {row['stage']}: {said}, {counted}"


def _second(row: Row, rows: list[Row]) -> Iterator[str]:
    """kronfluence's pass against what ours does beyond the new queries' gradients, and against the product alone."""
    stage = "second_scores_32"
    peers = [
        other for other in rows if _name(other) == ("kronfluence", row["size"], stage, row["device"], row["dtype"])
    ]
    if row["stage"] != stage or not peers:
        return
    clock = "cpu_seconds_median" if row["device"] == "cpu" else "wall_seconds_median"
    theirs = peers[0]["parts"]["pass"][clock]
    parts = {name: part[clock] for name, part in row["parts"].items()}
    scopes = {
        "rotating the queries and multiplying": parts["query_sketches"] + parts["pass"],
        "multiplying alone": parts["pass"],
        "all but the queries' gradients, reading included": row[clock] - parts["query_gradients"],
    }
    details = row["agreement_details"]
    agreement = f"at Pearson {details['pearson']:.3f}, Spearman {details['spearman']:.3f}"
    for scope, seconds in scopes.items():
        ratio = theirs / seconds
        yield (
            f"{_sign(met=ratio >= SECOND_SET)} {row['size']} second 32 queries over {row['sequences']} sequences, "
            f"{scope}: {seconds:.3g} s, kronfluence's pass {theirs:.3g} s, {ratio:.3g} times, "
            f"{SECOND_SET:.0f} wanted, {agreement}"
        )


def _name(row: Row) -> tuple[str, ...]:
    return row["subject"], row["size"], row["stage"], row["device"], row["dtype"]


def _share(row: Row) -> str:
    rate = f"{row['matmul_operations_per_second'] / 1e9:.0f} billion operations a second ({row['device_name']})"
    return f"    {row['size']} {row['stage']}: {100 * row['share_of_matmul_rate']:.0f} % of {rate}"


def _sign(*, met: bool) -> str:
    return "yes" if met else "NO "
