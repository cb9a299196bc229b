"""Pages, which are pictures of assets, and their discovery."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.shown import Picture, Shown
from influence_assets.errors import InputError, StorageError
from influence_assets.escaping import visible
from influence_assets.extensions import discover, extension_folders
from influence_assets.storage.artifacts import Artifact

PACKAGE = "influence_assets.report.pages"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A picture of an asset.

    Args:
        name: unique among pages; the picture's entry in the UI.
        title: a text alternative that says what it shows.
        asset: the name of the asset whose artifacts are drawn.
        draw: draws an artifact as PNG, small enough for a run's metadata; returns None if there is nothing to draw.
            It must not show texts or titles of documents: the UI keeps it forever, and a document may be withdrawn.
    """

    name: str
    title: str
    asset: str
    draw: Callable[[Artifact], bytes | None]


def pages_of(asset: str) -> list[Page]:
    """Return the pages of an asset, including those of extensions and installed packages, sorted by name.

    Raises:
        InputError: a page's file cannot be imported, or two pages have the same name.
    """
    return [page for page in _pages(tuple(extension_folders())) if page.asset == asset]


@lru_cache
def _pages(_folders: tuple[Path, ...]) -> list[Page]:
    """Discover all pages, once for each list of extension folders."""
    return sorted(discover(PACKAGE, "PAGE", Page).values(), key=lambda page: page.name)


def everything_shown(asset: AssetDefinition, artifact: Artifact) -> Mapping[str, Shown]:
    """Return what a person is shown of an artifact beside its figures: its pages, then what the asset itself shows."""
    pictures = {page.name: _picture(page, artifact) for page in pages_of(asset.name)}
    return {**{name: picture for name, picture in pictures.items() if picture is not None}, **asset.shown(artifact)}


def _picture(page: Page, artifact: Artifact) -> Shown | None:
    """Draw a page. What is computed stands without its picture, so a fault of drawing is shown in the picture's place.

    Raises:
        StorageError: the artifact is damaged.
        InputError: something that the user provided is wrong.
    """
    try:
        png = page.draw(artifact)
    except (StorageError, InputError):
        raise
    except Exception as error:  # noqa: BLE001  # a page may come from an extension, and draw with any library
        return f"The picture cannot be drawn: {visible(str(error))}"
    return None if png is None else Picture(png, page.title)
