"""Models on the Hugging Face hub and in its local cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.run_directory import near_run
from sedd_cli.checkpoints.tensors import INDEX, shards_of
from sedd_cli.errors import RequestError, WorkError, disk_full, first_line, listed
from sedd_cli.system.home import nearest_existing

#: Seconds to wait for the first answer; by default an unreachable hub takes most of a minute.
TIMEOUT = 20.0


def fetch(name: str, config: str, weights: Sequence[str], optional: Sequence[str] = ()) -> Path:
    """Download a model unless it is cached; returns the cache folder, whose files are all of one commit.

    Args:
        name: The hub id.
        config: The file with the configuration.
        weights: Possible names of the weights, best first; the name of an index stands for the shards it names.
        optional: Files to download too if they exist.

    Raises:
        RequestError: The model does not exist or cannot be reached.
        WorkError: The disk is too small.
    """
    if folder := _cached(name, config, weights):
        return folder
    try:
        return _download(name, config, weights, optional)
    except (RequestError, WorkError):
        raise
    except Exception as error:
        raise refusal(name, error, f"{config} and {weights[0]}") from error


def cached_else_fetched(name: str, load: Callable[..., Any]) -> Any:
    """`load(local_files_only=True)`; if that fails and the hub answers, `load()`."""
    try:
        return load(local_files_only=True)
    except RequestError:
        raise
    except (OSError, ValueError):
        pass  # not cached
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=TIMEOUT)
    return load()


def refusal(name: str, error: Exception, files: str) -> RequestError | WorkError:
    """The error to raise when a model cannot be fetched: the reason, and how to go without the hub."""
    from huggingface_hub import errors

    causes = list(_causes(error))
    if disk_full(error):
        return WorkError(f"no space left for {name} in {_cache()}: set HF_HOME to a folder on a larger disk")
    offline = f"offline: download {files} elsewhere and pass their folder"
    offline += near_run(Path(name)) if "/" not in name else ""
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{name}"
        return RequestError(f"{name} is gated: ask for access at {page}, then `hf auth login`; {offline}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return RequestError(
            f"the hub has no model {name}: check the name; a private one takes `hf auth login`; {offline}"
        )
    answers = (e.response.status_code for e in causes if isinstance(e, errors.HfHubHTTPError))
    offline_asked = isinstance(error, errors.OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline_asked else type(causes[-1]).__name__
    reason = next((f"it answered {status}" for status in answers), reason)
    return RequestError(
        f"cannot fetch {name} from the Hugging Face hub ({reason}), and its cache does not have all of it; {offline}"
    )


def push(folder: Path, name: str, private: bool, message: str, owned: Sequence[str]) -> str:
    """Upload a folder as the model `name`, which is made if it does not exist.

    Args:
        folder: The files to upload.
        name: The hub id.
        private: Refuse to upload to a public repository, and make a new one private.
        message: The commit message.
        owned: Files that are removed from the repository if the folder does not hold them.

    Returns:
        The URL of the commit.

    Raises:
        RequestError: Nobody is logged in, or writing is not allowed, or the repository is public but private was set.
        WorkError: The upload fails.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise RequestError(f"{name} exists and is public: make it private on the hub, or choose another name")
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, delete_patterns=list(owned)
        )
        return str(commit.commit_url)
    except RequestError:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise RequestError(
                f"the hub does not let you write to {name} ({status}): `hf auth login` with a token that may write"
            ) from error
        raise WorkError(f"the hub refused {name}: {first_line(error)}") from error
    except Exception as error:  # errors of the network libraries
        raise WorkError(f"cannot upload {name}: {type(error).__name__}: {first_line(error)}") from error


def check_id(name: str) -> None:
    """Raise RequestError unless `name` is a valid hub id with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise RequestError(f"{name!r} is not a hub id: {first_line(error)}") from None
    if "/" not in name:
        raise RequestError(f"{name!r} is not a hub id: it has the form owner/name")


def _cached(name: str, config: str, weights: Sequence[str]) -> Path | None:
    """The cached folder of a model. Weights are downloaded last, so where they are, the optional files are too."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(found := try_to_load_from_cache(name, config), str):
        return None
    folder = Path(found).parent
    return folder if any(_holds(folder, file) for file in weights) else None


def _holds(folder: Path, weights: str) -> bool:
    """Whether a folder holds the weights, with an index all its shards."""
    if not (folder / weights).is_file():
        return False
    return not weights.endswith(INDEX) or all((folder / s).is_file() for s in shards_of(folder / weights).values())


def _download(name: str, config: str, weights: Sequence[str], optional: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    info = HfApi().model_info(name, files_metadata=True, timeout=TIMEOUT)
    there = {file.rfilename: file.size or 0 for file in info.siblings or []}
    best = next((file for file in weights if file in there), None)
    if best is None or config not in there:
        raise RequestError(
            f"{name} on the hub holds no {config} with {' or '.join(weights)}: it is not a model of this format"
        )
    small = [file for file in (config, *optional) if file in there]
    large = [best]
    if best.endswith(INDEX):
        large = sorted(set(shards_of(Path(hf_hub_download(name, best, revision=info.sha))).values()))
        if missing := [file for file in large if file not in there]:
            raise RequestError(f"{name} on the hub lacks {listed(missing)}, which its {best} names")
    free, needed = shutil.disk_usage(nearest_existing(_cache())).free, sum(there[file] for file in (*large, *small))
    if needed > free:
        raise WorkError(
            f"{name} takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free in {_cache()}: "
            "set HF_HOME to a folder on a larger disk"
        )
    folder = Path(snapshot_download(name, allow_patterns=small))
    for file in {best, *large}:
        hf_hub_download(name, file, revision=folder.name)  # of the same commit
    return folder


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the chain of its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
