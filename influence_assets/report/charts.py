"""Constants and functions that the charts of several pages share."""

import json
from typing import Any

import altair as alt
import vl_convert

from influence_assets.escaping import visible

# By default Altair refuses frames of more than 5,000 rows: 26 layers of 200 points, or 1,700 shards.
alt.data_transformers.disable_max_rows()

WIDTH, HEIGHT = 520, 300
"""The size of a chart in pixels, before it is scaled by `SCALE`."""

SCALE = 1.5

POINTS = 200
"""The number of points that a curve is reduced to; more could not be distinguished."""

LOGARITHMIC: dict[str, Any] = {"scale": alt.Scale(type="log"), "axis": alt.Axis(format="~e")}


def png(chart: "alt.LayerChart | alt.Chart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart") -> bytes:
    """Return a chart as PNG, drawn without a browser. Characters that a picture cannot show are spelt out."""
    return vl_convert.vegalite_to_png(_spelt_out(json.loads(chart.to_json())), scale=SCALE)


def _spelt_out(part: Any) -> Any:
    """Return a part of a chart's JSON with control characters in its texts spelt out, which XML does not allow."""
    if isinstance(part, str):
        return visible(part)
    if isinstance(part, list):
        return [_spelt_out(value) for value in part]
    return {key: _spelt_out(value) for key, value in part.items()} if isinstance(part, dict) else part
