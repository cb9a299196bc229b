"""The table of architectures in docs/architectures.md: `python -m tests.architectures.table` writes it anew.

Each row is tried on a tiny model: gradients of queries against autograd in float64, one by one, and in a batch in which
they are padded with other tokens.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode

from influence_assets.capture.gradients import QueryGradients, query_gradients
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.models.dimensions import total_parameters
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.architectures import tiny
from tests.oracles import gradients as oracle

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
BEGIN, END = "<!-- begin: architectures -->", "<!-- end: architectures -->"
TOLERANCE = 1e-9


class Row(NamedTuple):
    """A row of the table, and by how much the model departs from the oracle and from itself in other batches.

    Args:
        name: the architecture.
        mlp: what `curvature.modules: mlp` attributes, or why it is refused.
        linear: the same of `linear`.
        share: the share of the parameters that `linear`, or the patterns that its refusal names, attribute.
        error: the largest departure, relative to the largest value.
    """

    name: str
    mlp: str
    linear: str
    share: str
    error: float

    def line(self) -> str:
        return f"| {self.name} | {self.mlp} | {self.linear} | {self.share} |"

    @property
    def works(self) -> bool:
        return self.share != "–"


class InFloat64(TorchFunctionMode):
    """Models compute in float64 also what they cast to float32 in any precision, so that no error is rounding."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is Tensor.float:
            return args[0].double()
        named = {name: _widened(value) for name, value in (kwargs or {}).items()}
        return function(*map(_widened, args), **named)


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def row(name: str) -> Row:
    model = tiny.tiny(name)
    with InFloat64():
        linear, layers = tried(model, "linear")
        mlp, layers_of_mlp = tried(model, "mlp")
        others = {layer.name for layer in layers_of_mlp} - {layer.name for layer in layers}
        error = max((largest_error(model, some) for some in (layers, others and layers_of_mlp) if some), default=0.0)
    share = sum(layer.parameters for layer in layers) / total_parameters(model)
    return Row(name, mlp, linear, f"{share:.0%}" if layers else "–", error)


def tried(model: transformers.PreTrainedModel, modules: str) -> tuple[str, Sequence[AttributedLayer]]:
    """Return the verdict on `curvature.modules`, and the layers; a refusal's own remedy is tried as well."""
    verdict, named = "works", modules
    for _ in range(3):
        try:
            layers = select_modules(model, named)
            rehearse(model, layers)
        except InputError as error:
            remedy = re.search(r"curvature\.modules: (\[.*\])", error.remedy)
            if verdict == "works":
                verdict = ("with the patterns that the refusal names: " if remedy else "refused: ") + reason(error)
            if remedy is None:
                return verdict.replace("with the patterns that the refusal names", "refused"), ()
            named = ast.literal_eval(remedy.group(1))
        else:
            return verdict, layers
    raise AssertionError(f"the remedies for {type(model).__name__} do not end")


def reason(error: InputError) -> str:
    """Return an error's problem without the names of this model's modules."""
    if error.problem.startswith("no layer rule covers"):
        return "no rule for " + ", ".join(dict.fromkeys(re.findall(r"\((\w+)", error.problem)))
    return re.sub(r"^\w+ (is not causal).*", r"\1", error.problem.split(":")[0].split(", but with")[0])


def largest_error(model: transformers.PreTrainedModel, layers: Sequence[AttributedLayer]) -> float:
    """Return by how much queries depart from autograd, which sees each alone: in one batch, and one by one."""
    queries = cases.queries(4)
    gradients, likelihoods = oracle.gradients(model, tuple(layers), queries, sign=+1)
    expected = QueryGradients(gradients, likelihoods.numpy())
    return max(distance(query_gradients(Runner(model, layers, size), queries), expected) for size in (4, 1))


def distance(found: QueryGradients, expected: QueryGradients) -> float:
    largest = max(float(G.abs().max()) for G in expected.layers.values())
    apart = max(float((found.layers[name] - G).abs().max()) for name, G in expected.layers.items())
    likelihoods = np.abs(found.log_probabilities - expected.log_probabilities).max()
    return max(apart / largest, float(likelihoods / np.abs(expected.log_probabilities).max()))


def rows_of_page() -> dict[str, str]:
    """The lines of the table by architecture, as they are in the documentation."""
    lines = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    return {line.split("|")[1].strip(): line for line in lines[3:] if line.startswith("|")}


def write() -> None:
    """Write the table into the page."""
    rows = [row(name) for name in tiny.names()]
    bad = [r.name for r in rows if not r.error <= TOLERANCE]
    if bad:
        raise SystemExit(f"these depart from the oracle: {bad}")
    head = ["| architecture | `mlp` | `linear` | share of the parameters |", "|---|---|---|---|"]
    table = "\n".join([BEGIN, *head, *(r.line() for r in rows), END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + table + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    write()
