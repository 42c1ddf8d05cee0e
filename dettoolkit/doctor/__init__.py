"""The doctor: what is wrong with data and recipe before a training shows it. Reads files, changes none."""
