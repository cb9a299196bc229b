"""Attribution methods, one a file, each under the name `METHOD`."""
