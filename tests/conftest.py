"""Shapes are checked at run time in every test: jaxtyping and beartype wrap the maths before it is imported."""

from jaxtyping import install_import_hook

install_import_hook("influence_assets.maths", "beartype.beartype")
