"""Dagster's web server behind the guard: `python -m influence_assets.orchestration.guarded_webserver`.

It takes the arguments of `dagster-webserver`, and the host names that it serves from the environment.
"""

import os

HOSTS = "INFLUENCE_UI_HOSTS"
"""The variable that holds the host names under which the UI may be addressed, with commas between them."""


def main() -> None:
    """Serve Dagster's UI."""
    from dagster_webserver.cli import main as serve

    from influence_assets.orchestration.guard import LOCAL, Guard
    from influence_assets.orchestration.private_api import wrap_webserver

    hosts = [name for name in os.environ.get(HOSTS, "").split(",") if name]
    wrap_webserver(Guard, hosts=[*LOCAL, *hosts])
    serve()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
