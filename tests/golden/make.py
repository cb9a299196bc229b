"""Write the golden values anew: `python -m tests.golden.make`.

Do so once an asset's code version was raised because its outputs are meant to change, or an asset is new. Values that
change while no code version does are refused: the store would take old artifacts for new ones. `--same-versions` writes
them all the same, for a change of the study, or of what is compared.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.golden import tiny_study
from tests.golden.package import assets, code_versions, compute, on_request, stored_artifacts
from tests.golden.values import Values, catalogue_tables, deviations, values_of

FOLDER = Path(__file__).parent / "values"

_EXACT_OF_JUDGED = ("subset", "seed", "subsets", "seeds", "units", "units_left_out", "queries", "method", "removal",
                    "removed", "training_sequences", "training_steps", "group", "groups", "models",
                    "permutations")  # fmt: skip
_TRAINED = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 300, "epochs": 1, "batch_sequences": 4}


def golden_values(asset: str) -> Values | None:
    """The stored values of an asset: `code_versions` and `partitions`; None where there are none."""
    file = FOLDER / f"{asset}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


_OF_BROUGHT = {
    "gradient_dot": {}, "diagonal": {}, "kfac": {}, "unrolled": {"learning_rates": 0.1}, "conjugate_gradients": {},
    "repsim": {}, "knn_shapley": {}, "representer_points": {}, "bm25": {}, "pbrf": {"strongest": 1},
}  # fmt: skip
"""Methods that any model has, with their options."""

_OF_TRAINED = {
    "tracin": {"checkpoints": 2}, "adam_metric": {}, "in_run_shapley": {}, "metagradient": {},
}  # fmt: skip
"""Methods of models that the study trains."""

_RETRAINING = {
    "leave_one_out": {"by": "source", "groups": ["almanac"], "seeds": 1},
    "data_shapley": {"by": "source", "seeds": 1, "permutations": 3},
    "datamodels": {},
}
"""The methods that train models, with their options."""


@cache
def current_values() -> dict[str, Values]:
    """What the present code makes of the tiny study, by asset, as `golden_values` has it."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        study = tiny_study.lay_out(Path(folder) / "brought")
        compute(study, until="covariances")
        fitting = Path(shutil.copytree(study.parent, Path(folder) / "fitting")) / study.name
        compute(study)
        # A shard that the generation was not fitted on: else there is no drift, and nothing of the details is copied.
        tiny_study.add_a_file(study.parent)
        compute(study)
        listed = {"methods": ["ekfac", *_OF_BROUGHT], "method_options": {n: o for n, o in _OF_BROUGHT.items() if o}}
        tiny_study.write_study(study.parent, scores={"self_influence": True}, **listed)
        compute(study)
        judged = _judged(Path(folder) / "judged")
        # They are not kept once the generation is fitted.
        covariances = [artifact for artifact in stored_artifacts(fitting) if artifact.key.asset == "covariances"]
        partitions = values_of([*stored_artifacts(study), *covariances]) | judged
        partitions["influence_catalogue"][""]["tables"] = catalogue_tables(str(study.parent / "store/influence.duckdb"))
        partitions["language_model"]["trained"] = _trained(Path(folder) / "trained")
    # As they come back from a file: tuples are lists there.
    by_asset = json.loads(json.dumps(partitions))
    return {name: {"code_versions": code_versions(name), "partitions": by_asset[name]} for name in assets()}


def _trained(folder: Path) -> Values:
    """What is exact of a model that the study trains: its tokenizer and sizes, not its weights."""
    study = tiny_study.lay_out(folder, model={"path": None, "train": _TRAINED})
    compute(study, until="language_model")
    (model,) = (artifact for artifact in stored_artifacts(study) if artifact.key.asset == "language_model")
    tokenizer = json.loads(model.path("tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    figures = ("architecture", "parameters", "context_tokens", "vocabulary", "training_steps", "training_tokens",
               "training_sequences")  # fmt: skip
    return {
        "summary": {name: model.manifest.summary[name] for name in figures},
        "tables": {"merges": {"pieces": [" ".join(pair) for pair in tokenizer["model"]["merges"]]}},
    }


def _judged(folder: Path) -> Values:
    """What is exact of models that are trained again and of how they judge: everything but what training rounds."""
    evaluation = {"subsets": 4, "seeds": 1, "random_removals": 2, "removal_queries": 1, "removal_share": 0.3}
    methods = ["ekfac", "gradient_dot", *_OF_TRAINED, *_RETRAINING]
    study = tiny_study.lay_out(
        folder, model={"path": None, "train": _TRAINED}, evaluation=evaluation, methods=methods,
        method_options={name: options for name, options in (_OF_TRAINED | _RETRAINING).items() if options},
    )  # fmt: skip
    compute(study)
    compute(study, on_request=True)
    partitions: Values = {}
    for artifact in stored_artifacts(study):
        name, tables, summary = artifact.key.asset, artifact.manifest.rows, artifact.manifest.summary
        if name in on_request():
            held: Values = {table: {"rows": [rows]} for table, rows in tables.items()}
            if "left_out" in tables:
                held["left_out"] = artifact.table("left_out").collect().to_dict(as_series=False)
            figures = {key: summary[key] for key in _EXACT_OF_JUDGED if key in summary}
            partitions.setdefault(name, {})[artifact.key.partition or ""] = {"summary": figures, "tables": held}
    return partitions


def changes(asset: str) -> list[str]:
    """How the present values of an asset differ from the golden ones, one line each; none where it has none."""
    golden, current = golden_values(asset), current_values()[asset]
    return [] if golden is None else list(deviations(golden["partitions"], current["partitions"]))


def is_of_these_versions(asset: str) -> bool:
    """Whether the golden values of an asset are of its code version, and of those that it is computed from."""
    golden = golden_values(asset)
    return golden is not None and golden["code_versions"] == code_versions(asset)


def _lines(content: Any, indent: str = "") -> Iterator[str]:
    """JSON with a line for each list, so that a change shows where it is."""
    if not isinstance(content, dict) or not content:
        yield json.dumps(content, ensure_ascii=False)
        return
    yield "{"
    for number, (name, value) in enumerate(content.items(), start=1):
        first, *others = _lines(value, f"{indent} ")
        lines = [f"{indent} {json.dumps(name, ensure_ascii=False)}: {first}", *others]
        lines[-1] += "," if number < len(content) else ""
        yield from lines
    yield f"{indent}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--same-versions", action="store_true", help="also what changed while no code version did")
    same_versions = parser.parse_args().same_versions
    FOLDER.mkdir(exist_ok=True)
    refused = {name: changes(name) for name in assets() if is_of_these_versions(name) and changes(name)}
    if refused and not same_versions:
        for name, lines in refused.items():
            print(f"{name} changed, its code version did not:", *lines[:10], sep="\n  ")
        raise SystemExit("Nothing was written. Raise the code version of the first of them, or give --same-versions.")
    for file in FOLDER.glob("*.json"):
        file.unlink()
    for name, values in current_values().items():
        (FOLDER / f"{name}.json").write_text("\n".join(_lines(values)) + "\n", encoding="utf-8")
        print(f"{name}: {(FOLDER / f'{name}.json').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
