"""What Dagster loads: the studies that INFLUENCE_STUDY names, or the demo's if it has been made."""

import os
from pathlib import Path

from influence_assets.orchestration.definitions import STUDIES, build_definitions, studies_from_environment

DEMO = Path(__file__).parent / "demo" / "study.yaml"
if STUDIES not in os.environ and DEMO.exists():
    os.environ[STUDIES] = str(DEMO)

defs = build_definitions(studies_from_environment())
