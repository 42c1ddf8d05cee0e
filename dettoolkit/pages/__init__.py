"""Static HTML pages, one file each: what a report is made of, and how it is written."""
