"""The reference tables of README.md and docs/, made of the code's own descriptions.

python -m docs.references
"""

from collections.abc import Iterator
from itertools import chain

import duckdb
import typer
from typer.core import TyperCommand

from docs.blocks import ROOT, write_blocks
from influence_assets.assets import asset_graph
from influence_assets.cli.app import build_app
from influence_assets.cli.study_template import reference
from influence_assets.storage.catalogue.statements import Statement, statements

PARTITIONS = {
    "none": "–",
    "shard": "shard",
    "query_set": "query set",
    "pair": "query set × shard",
    "listed": "as it lists them",
}


def main() -> None:
    """Write every reference into its block."""
    for page in write_blocks("generated", references()):
        print(f"Wrote {page.relative_to(ROOT)}")


def references() -> dict[str, str]:
    """Return every reference by the name of its block."""
    with duckdb.connect() as catalogue:
        for statement in chain(statements("schema").values(), statements("views").values()):
            catalogue.execute(statement.sql)
        tables = "\n\n".join(_relation(catalogue, statement) for statement in statements("schema").values())
        views = {name: statement for name, statement in statements("views").items() if _is_view(catalogue, name)}
        macros = [statement for name, statement in statements("views").items() if name not in views]
        return {
            "study": reference().strip(),
            "commands": _commands(),
            "assets": _assets(),
            "graph": _graph(),
            "tables": tables,
            "views": "\n\n".join(_relation(catalogue, statement) for statement in views.values()),
            "macros": _macros(macros),
            "cookbook": _cookbook(),
        }


def _is_view(catalogue: duckdb.DuckDBPyConnection, name: str) -> bool:
    return bool(catalogue.execute("select count(*) from duckdb_views() where view_name = ?", [name]).fetchall()[0][0])


def _relation(catalogue: duckdb.DuckDBPyConnection, statement: Statement) -> str:
    """A table or view: what it holds, what a row is, and its columns."""
    columns = catalogue.execute(
        "select column_name, data_type, comment from duckdb_columns() where table_name = ? order by column_index",
        [statement.name],
    ).fetchall()
    rows = (f"| `{name}` | {kind.lower()} | {_cell(comment)} |" for name, kind, comment in columns)
    head = [f"### {statement.name}", "", f"{statement.purpose} One row for each {_grain(statement)}.", ""]
    return "\n".join([*head, "| column | type | what it is |", "|---|---|---|", *rows])


def _grain(statement: Statement) -> str:
    return ", ".join(f"`{column}`" for column in statement.grain.split(", "))


def _macros(macros: list[Statement]) -> str:
    """Those that return a table, and those that return a number, which have no rows."""
    return "\n".join(
        f"- {_first_in_code(statement.purpose)}"
        + ("" if statement.grain.startswith("none") else f" One row for each {_grain(statement)}.")
        for statement in macros
    )


def _first_in_code(purpose: str) -> str:
    call, _, text = purpose.partition(": ")
    return f"`{call}`: {text}"


def _cookbook() -> str:
    rows = (
        f"| `{name}` | {_cell(question.purpose)} | {', '.join(f'`{value}`' for value in question.parameters)} |"
        for name, question in statements("cookbook").items()
    )
    return "\n".join(["| question | what it answers | needs |", "|---|---|---|", *rows])


def _commands() -> str:
    """Every command with its arguments, from its own help."""
    group = typer.main.get_command(build_app())
    rows = (
        f"| `influence {' '.join([name, *_arguments(command)])}` | {_cell(command.help or '')} |"
        for name, command in sorted(group.commands.items())  # type: ignore[attr-defined]
    )
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def _arguments(command: TyperCommand) -> Iterator[str]:
    for parameter in command.params:
        if parameter.name == "study":  # all commands but two have it
            continue
        name = max(parameter.opts, key=len)
        if parameter.param_type_name == "argument":
            text = (parameter.metavar or parameter.name or "").strip("[]").upper()
        else:
            text = name if getattr(parameter, "is_flag", False) else f"{name} …"
        yield text if parameter.required else f"[{text}]"


def _assets() -> str:
    rows = (
        f"| {asset.group} | `{asset.name}` | {PARTITIONS[asset.partitioned_by]} | {_cell(asset.description)} |"
        for asset in asset_graph()
    )
    return "\n".join(["| group | asset | a partition for each | what it holds |", "|---|---|---|---|", *rows])


def _graph() -> str:
    """The graph without the edges that follow from others."""
    inputs = {asset.name: set(asset.inputs) for asset in asset_graph()}
    above: dict[str, set[str]] = {}
    for name in inputs:  # inputs come before what reads them
        above[name] = inputs[name].union(*(above[one] for one in inputs[name]))
    edges = (
        f"    {one} --> {name}"
        for name, direct in inputs.items()
        for one in sorted(direct)
        if not any(one in above[other] for other in direct)
    )
    return "\n".join(["```mermaid", "flowchart LR", *edges, "```"])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
