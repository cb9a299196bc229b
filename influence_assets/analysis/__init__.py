"""Studies of finished scores. Knows neither models nor files."""
