"""From the label formats that tools export to the ones that recipes read."""
