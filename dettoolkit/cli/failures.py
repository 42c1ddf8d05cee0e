"""What a person sees when a command ends early: a sentence, or a traceback where it is worth more."""

from __future__ import annotations

import dis
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from types import TracebackType

# Warnings of libraries about their own affairs, or about what the recipe decides.
QUIET_WARNINGS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*litlogger.*",
    ".*The dirpath has changed.*",
    ".*contains too few points.*",
    ".*sync_dist=True.*",
)
QUIET_LOGGERS = "lightning.pytorch lightning.fabric lightning onnx_ir onnxscript torch.onnx"


def quiet() -> None:
    """Show our own messages, and of the libraries' only those that a user can act on."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from dettoolkit.training.run_folder import is_first_process

    level = logging.INFO if is_first_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    import_module("lightning.pytorch")  # it sets its loggers' levels when it is imported
    for name in QUIET_LOGGERS.split():
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    for text in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    quiet_images()


def quiet_images() -> None:
    """Leave unsaid what Pillow finds odd in headers, without naming the file; pixels are not concerned."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def guarded(command: Callable[[], int], traceback: bool) -> int:
    """Print an expected error as a sentence; keep tracebacks for defects, and for those who ask."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that the terminal cannot show ends no command
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except KeyboardInterrupt as error:
        if traceback:
            raise
        print(str(error) or "interrupted", file=sys.stderr)
        return 130  # what shells make of Ctrl-C
    except Exception as error:
        text = sentence(error)
        if traceback or text is None:
            raise
        print(f"error: {text}" if "\n" not in text else f"error:\n{text}", file=sys.stderr)
        return 2


def sentence(error: Exception) -> str | None:
    """Return the message of an error that was foreseen; None for any other: its traceback is worth more."""
    text, name = str(error), type(error).__name__
    if type(error).__module__.startswith("dettoolkit."):
        # A loader's worker sends its error as text, with the traceback before the message.
        from_worker = text.startswith(f"Caught {name} in DataLoader worker")
        return re.split(rf"\n[\w.]*{name}: ", text)[-1].strip() if from_worker else text
    if name == "OutOfMemoryError":  # torch's
        return f"{text.splitlines()[0]} Try a smaller data.batch_size"
    if name in ("DistStoreError", "DistNetworkError"):  # torch's
        return f"{text.splitlines()[0]} Not all nodes (trainer.num_nodes) connected: start them together"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    foreseen = isinstance(error, (ValueError, OSError, RuntimeError, ModuleNotFoundError))
    return text if foreseen and _is_raised_here(error.__traceback__) else None


def _is_raised_here(traceback: TracebackType | None) -> bool:
    """Return whether a `raise` of this package ended it, with a message for people, not a failing call."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    ours = str(frame.f_globals.get("__name__", "")).startswith("dettoolkit")
    return ours and dis.opname[frame.f_code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"
