"""Pictures of assets, which the UI shows on their pages: one a file in `pages/`. There is no report in HTML yet."""
