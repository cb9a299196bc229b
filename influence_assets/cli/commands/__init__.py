"""One file a command of `influence`; each defines `COMMAND`, an `influence_assets.cli.command.Command`.

These modules are imported whenever the command starts, for its list of commands. So they import what a command needs
inside its function: `influence --help` and `influence sql` must not wait for torch, transformers or Dagster.
"""
