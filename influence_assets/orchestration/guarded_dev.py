"""`dagster dev` with the guarded web server: `python -m influence_assets.orchestration.guarded_dev`.

It takes the arguments of `dagster dev`.
"""


def main() -> None:
    """Start Dagster's UI and its daemon."""
    from influence_assets.orchestration.private_api import dagster_with

    dagster_with("influence_assets.orchestration.guarded_webserver")


if __name__ == "__main__":
    main()
