"""One executor a file, each under the name `EXECUTOR`."""
