"""OpenVINO: files are opened and written here."""
