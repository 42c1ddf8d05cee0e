"""ExecuTorch: files are opened and written here."""
