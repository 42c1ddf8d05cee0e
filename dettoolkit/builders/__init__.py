"""What build uses: a module for each task, and what their runs share."""
