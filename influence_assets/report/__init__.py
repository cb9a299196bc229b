"""Pictures of assets, which the UI shows on their pages; each is a file in `pages/`. There is no HTML report yet."""
