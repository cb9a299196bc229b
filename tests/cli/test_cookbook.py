"""Ready-made questions by the command, and tables that do not fit."""

import polars as pl
import pytest
from rich.console import Console

from influence_assets.cli.tables import show_table
from influence_assets.errors import InputError
from influence_assets.storage.catalogue import ask_cookbook, cookbook


def test_a_question_says_what_it_asks_for(tmp_path):
    with pytest.raises(InputError, match=r"has no question 'nonsense'.*strongest_passages"):
        ask_cookbook(tmp_path / "none", "nonsense", {})
    with pytest.raises(InputError, match=r"was given count.*query_id \(the query, from the table queries\)"):
        ask_cookbook(tmp_path / "none", "strongest_passages", {"count": "3"})
    assert cookbook()["strongest_passages"].parameters.keys() == {"query_id", "count"}


@pytest.mark.parametrize(("width", "as_list"), [(200, False), (50, True)])
def test_rows_too_wide_for_the_console_are_listed_value_by_value(width, as_list):
    rows = pl.DataFrame({"document_id": ["a" * 32] * 2, "sequence_id": [2**62, 1], "text": ["word " * 20] * 2})
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    show_table(rows, console)
    printed = console.export_text()
    assert ("row 1" in printed) is as_list
    assert "a" * 32 in printed
    assert str(2**62) in printed
