"""torch.export programs: files are opened and written here."""
