"""What the charts of several pages share."""

from typing import Any

import altair as alt
import vl_convert

# Altair refuses frames of more than 5,000 rows unless told: 26 layers of 200 points, or 1,700 shards.
alt.data_transformers.disable_max_rows()

WIDTH, HEIGHT = 520, 300
"""Pixels of a chart, before it is drawn larger by `SCALE`."""

SCALE = 1.5

POINTS = 200
"""Points kept of a curve: as many as can be told apart."""

LOGARITHMIC: dict[str, Any] = {"scale": alt.Scale(type="log"), "axis": alt.Axis(format="~e")}


def png(chart: "alt.LayerChart | alt.Chart | alt.FacetChart | alt.VConcatChart") -> bytes:
    """Draw a chart without a browser."""
    return vl_convert.vegalite_to_png(chart.to_json(), scale=SCALE)
