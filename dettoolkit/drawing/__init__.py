"""Every picture: boxes, masks, grids, fonts."""
