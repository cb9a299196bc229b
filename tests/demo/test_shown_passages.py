"""What the demo prints of each question's passages."""

import io
import re

import pytest
from rich.console import Console

from influence_assets.cli.commands.demo import show_retrieval
from influence_assets.engine.workspace import catalogue_path
from influence_assets.study import Study
from tests import studies


@pytest.mark.parametrize(
    ("length", "noise"), [(16, "noise not known"), (8, r"\d of \d\d above the noise, [\d.e-]+ nats")]
)
def test_each_question_has_its_noise_beside_its_passages(tmp_path, length, noise):
    study = studies.lay_out(tmp_path, sequences={"length": length})
    rows = [row | {"article": "Lamp", "articles": ["Lamp"]} for row in studies.FIRST_ROWS]
    studies.write_jsonl(tmp_path / "queries" / studies.FIRST, rows)
    (tmp_path / "queries" / studies.SECOND).unlink()
    studies.compute(study)
    console = Console(file=io.StringIO(), width=300)
    show_retrieval(catalogue_path(Study.load(study)), console)
    shown = console.file.getvalue()
    for row in rows:
        heading = f"{row['prompt']}{row['completion']}  (article: Lamp; "
        assert re.search(re.escape(heading) + noise + r"\)\n", shown)
