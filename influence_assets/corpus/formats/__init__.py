"""One source format a file, each under the name `FORMAT`."""
