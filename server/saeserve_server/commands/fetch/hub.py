"""What repositories of the hub hold: files with sizes and checksums, at one commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

import saeserve_server
from saeserve_server.commands.fetch.remote import RemoteFile
from saeserve_server.errors import ConfigError

MODEL_FILES = re.compile(r"[^/]+\.(json|safetensors|model|txt)")
"""What is fetched of a model: files at the top of its repository."""
PICKLES = re.compile(r"[^/]+\.bin")
"""What is fetched besides of one without safetensors. Such weights are read with `weights_only`."""
DUPLICATES = re.compile(r"consolidated[^/]*\.safetensors|training_args\.bin|optimizer\.bin")
"""The same weights in another layout, and what is left of training."""
DATA_FILES = re.compile(r".+\.(parquet|jsonl|ndjson|txt)")
"""What is fetched of a data set: the files that an index can be built of."""


class NoSuchRepository(ConfigError):
    """The hub does not know it, or not to this user."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    id: str
    commit: str
    files: Mapping[str, RepoFile]
    kind: str = "model"
    """What the hub calls its type: model or dataset."""

    def remote(self, name: str) -> RemoteFile:
        """One of its files; it goes into a folder named like the repository."""
        file = self.files[name]
        cached = try_to_load_from_cache(self.id, name, revision=self.commit, repo_type=self.kind)
        return RemoteFile(
            name=f"{self.id}/{name}",
            url=hf_hub_url(self.id, name, revision=self.commit, repo_type=self.kind, endpoint=HfApi().endpoint),
            size=file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_oid=None if file.lfs else file.blob_id,
            cached=Path(cached) if isinstance(cached, str) else None,
        )

    def model_files(self) -> list[str]:
        """The names of those that a model is loaded from. Raises ConfigError for a repository that holds none."""
        names = [name for name in self.files if MODEL_FILES.fullmatch(name) and not DUPLICATES.fullmatch(name)]
        if not any(name.endswith(".safetensors") for name in names):
            names += [name for name in self.files if PICKLES.fullmatch(name) and not DUPLICATES.fullmatch(name)]
        if "config.json" not in names or not any(name.endswith((".safetensors", ".bin")) for name in names):
            raise ConfigError(f"{self.id}: expected a model with config.json and weights, the repository has no such")
        return names

    def data_files(self) -> list[str]:
        """The names of those that an index can be built of. Raises ConfigError for a repository that holds none."""
        names = [name for name in self.files if DATA_FILES.fullmatch(name)]
        if not names:
            raise ConfigError(f"{self.id}: expected a data set with Parquet, JSONL or text files, it has no such")
        return names


def open_repository(repo: str, revision: str | None, kind: str = "model") -> Repository:
    """Its files at the newest commit of `revision`. Raises ConfigError, which says what to do."""
    api = HfApi(library_name="saeserve-server", library_version=saeserve_server.__version__)
    try:
        info = api.repo_info(repo, revision=revision, repo_type=kind)
        if info.gated:
            api.auth_check(repo, repo_type=kind)
        if info.sha is None:
            raise ConfigError(f"{repo}: the hub names no commit of it")
        tree = api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=kind)
        return Repository(repo, info.sha, {file.path: file for file in tree if isinstance(file, RepoFile)}, kind)
    except ConfigError:
        raise
    except Exception as error:  # the hub's client raises its own kinds and those of its HTTP client
        raise explain(error, repo, api.endpoint, revision) from error


def explain(error: Exception, repo: str, endpoint: str, revision: str | None = None) -> ConfigError:
    """An error of the hub's client in one line, with what to do."""
    message = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OfflineModeIsEnabled):
        message = "the hub's client is in offline mode: unset HF_HUB_OFFLINE"
    elif isinstance(error, GatedRepoError):
        message = (
            f"gated: accept its terms at {endpoint}/{repo}, make a token that may read it at "
            f"{endpoint}/settings/tokens, and set HF_TOKEN to it"
        )
    elif isinstance(error, RepositoryNotFoundError):
        return NoSuchRepository(
            f"{repo}: no such repository at {endpoint}, or a private one: check the name, or set HF_TOKEN"
        )
    elif isinstance(error, RevisionNotFoundError):
        message = f"no revision {revision} at {endpoint}: expected a branch, a tag or a commit"
    elif isinstance(error, HFValidationError):
        message = f"not a hub name, expected OWNER/NAME: {message}"
    elif isinstance(error, HfHubHTTPError):
        message = f"{endpoint} answered: {message}"
    else:
        message = f"{endpoint}: {type(error).__name__}: {message}; try again: what was fetched is kept"
    return ConfigError(f"{repo}: {message}")
