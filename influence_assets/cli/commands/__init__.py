"""The commands of `influence`, one in each file, which defines `COMMAND`, an `influence_assets.cli.command.Command`.

All these modules are imported whenever any command starts. So each imports what it needs inside its function:
`influence --help` and `influence sql` must not wait for torch, transformers or Dagster.
"""
