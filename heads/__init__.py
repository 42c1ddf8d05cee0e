"""Heads: what turns a backbone's features into predictions."""

if __name__ == "heads":
    raise ImportError(
        "this folder is the package dettoolkit.heads; import it by that name (after 'pip install -e .'), "
        "not as 'heads' from the repository's root"
    )
