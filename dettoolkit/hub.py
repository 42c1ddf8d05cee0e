"""Published folders on Hugging Face's hub, as `hf://owner/name` or `hf://owner/name@revision`.

Only the files of a published folder are fetched or sent, none of which can run code. They are kept in the hub
library's own cache.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from dettoolkit.formats import requires
from dettoolkit.weights.safe import MODEL

MANIFEST, RECIPE, MEASURED, CARD = "manifest.json", "recipe.yaml", "measured.json", "README.md"
FILES = (MODEL, MANIFEST, RECIPE, MEASURED, CARD)
"""Of a published folder."""
SCHEME = "hf:/"  # a path has one slash only


def on_hub(model: Path) -> bool:
    """Return whether a model is given by its address on the hub."""
    return model.as_posix().startswith(SCHEME)


def local(model: Path) -> Path:
    """Return the folder that a model on the hub was fetched to, once per process; any other path as it is.

    Raises:
        ModuleNotFoundError: the hub's library is not installed; the message names the extra.
        ValueError: no such address.
        OSError: it cannot be fetched, or is no published folder.
    """
    if not on_hub(model):
        return model
    text = model.as_posix().removeprefix(SCHEME).lstrip("/")
    address = re.fullmatch(r"([^/@\s]+/[^/@\s]+)(?:@(\S+))?", text)
    if address is None:
        raise ValueError(
            f"hf://{text} is no address on the hub: write hf://owner/name or hf://owner/name@revision"
        )
    return _fetched(address[1], address[2])


@cache
def _fetched(repository: str, revision: str | None) -> Path:
    what = f"hf://{repository}" + (f"@{revision}" if revision else "")
    with requires("hub", what=what):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise OSError(f"{what} is gated: ask for access on its page, and log in by 'hf auth login'") from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{what} is not there, or is private: check owner and name, or log in by 'hf auth login'"
        ) from None
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{what}: the model has no such branch, tag or commit") from None
    except Exception as error:  # also those of its HTTP library, which is another one in each major version
        raise OSError(f"{what} cannot be fetched: {_first_line(error)}") from error
    if not (folder / MODEL).is_file():
        raise FileNotFoundError(
            f"{what} has no {MODEL}: dettoolkit reads models that 'dettoolkit publish' has written"
        )
    return folder


def check_repository(repository: str) -> None:
    """Refuse what cannot be pushed to, before any work.

    Raises:
        ModuleNotFoundError: the hub's library is not installed; the message names the extra.
        ValueError: no name of a repository.
    """
    if re.fullmatch(r"[^/@\s:]+/[^/@\s:]+", repository) is None:
        raise ValueError(f"'{repository}' is no repository: write owner/name")
    with requires("hub", what="--push"):
        import huggingface_hub  # noqa: F401


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Send a published folder to a repository, which is made if there is none; return the commit's address.

    What the repository had stays in its history.

    Raises:
        ModuleNotFoundError: the hub's library is not installed; the message names the extra.
        ValueError: no name of a repository.
        FileNotFoundError: the folder is not a published one.
        OSError: the hub refuses, or cannot be reached.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} is no published folder: it has no {', '.join(missing)}")
    check_repository(repository)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="dettoolkit")
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.create_commit(  # one for all files: a repository never has half a model
            repository,
            [CommitOperationAdd(name, folder / name) for name in FILES],
            commit_message="Publish with dettoolkit",
        )
    except Exception as error:
        raise OSError(
            f"{repository} was not pushed: {_first_line(error)}. To write there, log in: 'hf auth login', "
            "or set HF_TOKEN"
        ) from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
