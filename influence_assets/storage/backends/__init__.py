"""The storage backends, one in each file (see `influence_assets.storage.backend`)."""
