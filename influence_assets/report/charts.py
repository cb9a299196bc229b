"""Constants and functions that the charts of several pages share."""

from typing import Any

import altair as alt
import vl_convert

# By default Altair refuses frames of more than 5,000 rows: 26 layers of 200 points, or 1,700 shards.
alt.data_transformers.disable_max_rows()

WIDTH, HEIGHT = 520, 300
"""The size of a chart in pixels, before it is scaled by `SCALE`."""

SCALE = 1.5

POINTS = 200
"""The number of points that a curve is reduced to; more could not be distinguished."""

LOGARITHMIC: dict[str, Any] = {"scale": alt.Scale(type="log"), "axis": alt.Axis(format="~e")}


def png(chart: "alt.LayerChart | alt.Chart | alt.FacetChart | alt.VConcatChart") -> bytes:
    """Return a chart as PNG, drawn without a browser."""
    return vl_convert.vegalite_to_png(chart.to_json(), scale=SCALE)
