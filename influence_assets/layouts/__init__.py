"""How the values of assets lie in their artifacts, for those who write and read them."""
