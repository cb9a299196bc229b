"""Files that survive crashes and are shared by processes: atomic writes, locks and caches. Standard library only."""
