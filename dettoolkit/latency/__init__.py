"""How long networks take in a runtime: measured whole, and predicted from a table of their blocks."""
