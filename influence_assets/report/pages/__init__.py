"""One picture of an asset a file; each defines `PAGE`, an `influence_assets.report.page.Page`.

They import altair inside their functions: it is slow to import, and most processes that list the pages draw none.
"""
