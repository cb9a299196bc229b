"""Pictures of assets, one in each file; each file defines `PAGE`, an `influence_assets.report.page.Page`.

They import altair inside their functions: it is slow to import, and most processes that list the pages draw none.
"""
