"""Source formats, one in each file, under the name `FORMAT`."""
