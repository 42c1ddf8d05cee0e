"""report.html: what a training or an evaluation found, on one page, made from its folder alone."""
