"""Download the files of a repository of the Hugging Face hub into the local cache, or find them there.

One request resolves the revision to a commit, another lists the files; every file is then read from that commit, so a
model is never put together from two states of its repository. Without a network (or with HF_HUB_OFFLINE=1) the cache
is used. It may be partial, as long as the files that loading reads are there.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, errors, hf_hub_download, try_to_load_from_cache

from ..foundation.errors import InputError, first_line

CONFIG = "config.json"
UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Wanted = Callable[[Path, frozenset[str]], list[str]]  # (snapshot folder with config.json, names) -> names to fetch


def fetch(path: str, repository: str, revision: str | None, wanted: Wanted) -> tuple[Path, frozenset[str], str]:
    """The snapshot folder with the wanted files, the names of all files of the repository, and the commit.

    Raises InputError if the repository, the revision or a file is not available.
    """
    try:
        commit = HfApi().resolve_revision(repository, revision=revision).resolved
        names = _listed(path, repository, commit)
        if names is None:
            return _cached(path, repository, commit, wanted)
        return _fetched(path, repository, commit, names, wanted)
    except (errors.EntryNotFoundError, errors.RevisionResolutionError, errors.HFValidationError) as error:
        raise InputError(f"{path}: {_why_not(error, repository, revision)}") from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise InputError(f"{path}: {_why_not(error, repository, revision)}") from error


def _listed(path: str, repository: str, commit: str) -> frozenset[str] | None:
    """The names of the repository's files; None if the hub cannot be reached."""
    if constants.is_offline_mode():
        return None
    try:
        found = HfApi().model_info(repository, revision=commit).siblings or []
        return frozenset(each.rfilename for each in found)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except (HTTPError, OSError) as error:
        warnings.warn(f"{path}: the hub cannot be reached ({first_line(error)}); looking in the cache", stacklevel=1)
        return None


def _fetched(
    path: str, repository: str, commit: str, names: frozenset[str], wanted: Wanted
) -> tuple[Path, frozenset[str], str]:
    if CONFIG not in names:
        raise InputError(f"{path}: the repository has no {CONFIG}, so transformers cannot load it")
    folder = Path(hf_hub_download(repository, CONFIG, revision=commit)).parent
    for name in (each for each in sorted(names) if each.endswith(".index.json")):
        hf_hub_download(repository, name, revision=commit)
    for name in wanted(folder, names):
        hf_hub_download(repository, name, revision=commit)
    return folder, names, commit


def _cached(path: str, repository: str, commit: str, wanted: Wanted) -> tuple[Path, frozenset[str], str]:
    """The cached files of the commit, if they are enough."""
    config = try_to_load_from_cache(repository, CONFIG, revision=commit)
    if not isinstance(config, str):
        raise errors.LocalEntryNotFoundError(CONFIG)
    folder = Path(config).parent
    names = frozenset(each.name for each in folder.iterdir() if each.exists())  # a link may lead nowhere
    try:
        wanted(folder, names)
    except InputError as error:
        raise InputError(
            f"{path}: the cache has only a part of it ({str(error).removeprefix(f'{path}: ')}); "
            f"run `hf download {repository}` with a network connection, then try again"
        ) from error
    return folder, names, commit


def _why_not(error: Exception, repository: str, revision: str | None) -> str:
    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"a gated model; ask for access on {page}, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such model on the hub, or a private one; check the spelling, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no branch, tag or commit {revision!r} in {page}; correct the part after the @"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"a file of the repository cannot be downloaded ({first_line(error)}); try again"
    if isinstance(error, errors.RevisionResolutionError | errors.LocalEntryNotFoundError):
        return _not_cached(repository, revision)
    if isinstance(error, errors.HFValidationError):
        return "no such folder, and not a hub id either (owner/name or owner/name@revision); correct it"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{error.filename or constants.HF_HUB_CACHE} is not writable; set HF_HOME to a folder that is"
    return f"cannot be downloaded ({first_line(error)}); try again, or use a local folder"


def _not_cached(repository: str, revision: str | None) -> str:
    where = f"{repository}@{revision}" if revision else repository
    if constants.is_offline_mode():
        return (
            f"no such folder, and {where} is not in the cache ({constants.HF_HUB_CACHE}), while HF_HUB_OFFLINE "
            f"forbids downloading it; unset it, or run `hf download {repository}` where there is a network"
        )
    return (
        f"no such folder, the hub ({constants.ENDPOINT}) cannot be reached, and {where} is not in the cache "
        f"({constants.HF_HUB_CACHE}); check the network, or use a local folder"
    )
