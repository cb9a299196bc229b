"""The kinds of medium that a store can lie on, one file each (see `influence_assets.storage.backend`)."""
