"""Data sets: COCO, generated street scenes, augmentation, samplers. Imported as dettoolkit.datasets."""

if __name__ == "datasets":
    raise ImportError(
        "this folder is dettoolkit's and is imported as 'dettoolkit.datasets'; it was found as a top-level "
        "'datasets' because the repository root is on sys.path (python -m pytest, or python started there "
        "with -c or -m). Import dettoolkit.datasets instead, run 'pytest' rather than 'python -m pytest', "
        "or, when Hugging Face's 'datasets' is meant, start python from another folder or with 'python -P'"
    )
