"""Files that survive crashes and are shared by processes: written whole, locked, remembered. Standard library only."""
