"""The demo: a study of real text that every Python carries, written into a folder of the user's."""
