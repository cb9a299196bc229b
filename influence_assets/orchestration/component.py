"""A component for `dg` projects: a study in a `defs.yaml`, beside whatever else the project contains.

```yaml
type: influence_assets.orchestration.InfluenceStudy
attributes:
  name: wiki
  corpus: {path: corpus}
  model: {path: "{{ env.MODEL }}"}
  queries: {path: queries}
```
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel

from influence_assets.extensions import add_folders
from influence_assets.orchestration.definitions import study_definitions
from influence_assets.study import Study


@dataclass
class InfluenceStudy(dg.Component, dg.Resolvable):
    """A study of which training data made a language model say something: its assets, checks, jobs and sensor.

    The attributes are those of study.yaml. Relative paths in them are relative to the folder of defs.yaml.

    Args:
        study: the study that the attributes describe.
    """

    study: Study

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the schema of the attributes: the study's own."""
        return Study

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """Return the component with templates such as `{{ env.MODEL }}` filled in."""
        return cls(Study.model_validate(context.resolve_value(model.model_dump(mode="json", exclude_unset=True))))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the study's definitions."""
        study = self.study.resolved(context.path)
        add_folders(map(Path, study.extensions))
        return study_definitions(study)
