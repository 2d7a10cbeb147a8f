"""OpenAI's SAEs for GPT-2 small, which lie on a plain server: no listing, no checksums.

`SAESERVE_OPENAI_URL` names a mirror with the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from huggingface_hub import get_hf_file_metadata
from huggingface_hub.errors import HfHubHTTPError

from saeserve_server.commands.fetch.remote import RemoteFile
from saeserve_server.errors import ConfigError

URL = "https://openaipublic.blob.core.windows.net"
WORKERS = 8


def static_files(names: Sequence[str]) -> list[RemoteFile]:
    """The files with sizes and etags, in order. Raises ConfigError for one that is not there."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(_look, names))


def _look(name: str) -> RemoteFile:
    url = f"{os.environ.get('SAESERVE_OPENAI_URL', URL).rstrip('/')}/{name}"
    try:
        found = get_hf_file_metadata(url, token=False)
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ConfigError(f"{url}: expected a file of OpenAI's, the server answered {status}") from error
    except Exception as error:  # those of the HTTP client
        raise ConfigError(f"{url}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
    if found.size is None:
        raise ConfigError(f"{url}: the server does not say how long it is")
    return RemoteFile(name=name, url=url, size=found.size, etag=found.etag and f'"{found.etag}"', on_hub=False)
