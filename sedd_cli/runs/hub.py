"""The Hugging Face hub: what its cache holds, what it has, and giving it something, each refusal in one line."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.text.home import nearest_existing

OWNER_AND_NAME = r"\w[\w.-]*/[\w.-]+"
#: Seconds for the first question; a hub out of reach would else be waited for most of a minute.
TIMEOUT = 20.0


def fetch(name: str, wanted: Sequence[Sequence[str]], optional: Sequence[str] = ()) -> Path:
    """The folder of the hub's cache with a model's files, downloaded where they are not there yet.

    wanted: the names by which each file may go, the best first. optional: files taken along where there are any.
    RequestError for a model that is not there, or out of reach; WorkError where the disk is too small.
    """
    try:
        if folder := _cached(name, wanted):
            return folder
        chosen = _chosen(name, wanted, optional)
        return _download(name, chosen)
    except (RequestError, WorkError):
        raise
    except Exception as error:
        raise refusal(name, error, " and ".join(names[0] for names in wanted)) from error


def cached_else_fetched(name: str, load: Callable[..., Any]) -> Any:
    """What `load(local_files_only=True)` gives, else, once the hub has answered, `load()`."""
    try:
        return load(local_files_only=True)
    except (OSError, ValueError):
        pass  # not cached
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=TIMEOUT)
    return load()


def refusal(name: str, error: Exception, files: str) -> RequestError | WorkError:
    """What to say where a model cannot be had from the hub: why, and the way without it."""
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return WorkError(f"no space left for {name} in {_cache()}: set HF_HOME to a folder on a larger disk")
    offline = f"offline: download {files} elsewhere and pass their folder"
    page = f"https://huggingface.co/{name}"
    if isinstance(error, errors.GatedRepoError):
        return RequestError(f"{name} is gated: ask for access at {page}, then `hf auth login`; {offline}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return RequestError(
            f"the hub has no model {name}: check the name; a private one takes `hf auth login`; {offline}"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return RequestError(f"{page} does not hold {files}; {offline}")
    while error.__cause__ is not None:  # the client wraps what the network said
        error = error.__cause__
    return RequestError(
        f"cannot fetch {name} from the Hugging Face hub ({type(error).__name__}), and its cache does not have it; "
        f"{offline}"
    )


def push(folder: Path, name: str, private: bool, message: str) -> str:
    """Upload a folder as the model `name`, made if it is not there; the address of the commit.

    RequestError where nobody is logged in or it is not allowed, WorkError where the upload fails.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url)
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise RequestError(
                f"the hub does not let you write to {name} ({status}): `hf auth login` with a token that may write"
            ) from error
        raise WorkError(f"the hub refused {name}: {_first_line(error)}") from error
    except Exception as error:  # the network's own kinds
        raise WorkError(f"cannot upload {name}: {type(error).__name__}: {_first_line(error)}") from error


def check_id(name: str) -> None:
    """RequestError unless a name has the form owner/name."""
    if not re.fullmatch(OWNER_AND_NAME, name):
        raise RequestError(f"{name!r} is no hub id: it has the form owner/name")


def _cached(name: str, wanted: Sequence[Sequence[str]]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    folder = None
    for names in wanted:
        found = next((at for n in names if isinstance(at := try_to_load_from_cache(name, n), str)), None)
        if found is None:
            return None
        folder = Path(found).parent
    return folder


def _chosen(name: str, wanted: Sequence[Sequence[str]], optional: Sequence[str]) -> dict[str, int]:
    """The files to take, with their bytes (0 where the hub does not say)."""
    from huggingface_hub import HfApi

    there = {s.rfilename: s.size or 0 for s in HfApi().model_info(name, files_metadata=True, timeout=TIMEOUT).siblings}
    chosen = {}
    for names in wanted:
        best = next((n for n in names if n in there), None)
        if best is None:
            raise RequestError(f"https://huggingface.co/{name} holds no {' or '.join(names)}: it is no model of ours")
        chosen[best] = there[best]
    return chosen | {n: there[n] for n in optional if n in there}


def _download(name: str, sizes: dict[str, int]) -> Path:
    from huggingface_hub import hf_hub_download

    free, needed = shutil.disk_usage(nearest_existing(_cache())).free, sum(sizes.values())
    if needed > free:
        raise WorkError(
            f"{name} takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free in {_cache()}: "
            "set HF_HOME to a folder on a larger disk"
        )
    *_, last = [hf_hub_download(name, file) for file in sizes]
    return Path(last).parent


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
