"""LiteRT: files are opened and written here."""
