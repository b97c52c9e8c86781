"""Fetching published weights: repositories of the Hugging Face hub, and original files by address.

Both are kept below `HF_HOME`, so that a second call finds them there, and both honour `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import filelock
import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from tqdm import tqdm

from mask2former.errors import CheckpointError
from mask2former.schema import read_settings
from weights.keys_huggingface import TOKENIZER_FILES
from weights.tensor_files import WEIGHT_FILES, shards

try:  # what huggingface_hub before 1.0 lets through; later ones resume by themselves
    from requests.exceptions import ChunkedEncodingError

    BROKEN_OFF = (ChunkedEncodingError,)
except ImportError:
    BROKEN_OFF = ()

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the first of these that a repository has
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 5  # at a file whose transfer breaks off
CHUNK = 1 << 20  # bytes


def hub_folder(repo_id: str) -> Path:
    """The local folder of a hub repository with its config and weights, downloaded where it is not cached.

    A connection that breaks off is resumed. All files are of one commit. Raises FileNotFoundError if the repository
    does not exist or has no weights, ConnectionError if it is not cached and cannot be reached, CheckpointError if its
    JSON is not as it should be.
    """
    try:
        _require_reachable(repo_id)
        folder = Path(huggingface_hub.hf_hub_download(repo_id, "config.json")).parent
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the hub has no public model {repo_id!r}; a private one needs `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repo_id} is not in the cache and the hub cannot be reached; get online (and unset HF_HUB_OFFLINE), or "
            "give a local folder"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} on the hub has no config.json, so it holds no model of this kind"
        ) from error
    commit = folder.name  # the cache names each snapshot by its commit
    weights = next((name for name in WEIGHT_FILES if _fetch(repo_id, name, commit)), None)
    if weights is None:
        raise FileNotFoundError(f"{repo_id} has none of {', '.join(WEIGHT_FILES)}, in the cache or on the hub")
    if weights.endswith(".index.json"):
        for shard in sorted(shards(folder / weights)):
            if not _fetch(repo_id, shard, commit):
                raise FileNotFoundError(f"{repo_id} lacks {shard}, which its {weights} names")
    next((name for name in PROCESSOR_FILES if _fetch(repo_id, name, commit)), None)
    config = folder / "config.json"
    values = read_settings(config, dict[str, Any], lambda problem: CheckpointError(f"{config}: {problem}"))
    if values.get("model_type") == "oneformer":
        for name in TOKENIZER_FILES:
            _fetch(repo_id, name, commit)
    return folder


def original_file(url: str, md5_prefix: str | None = None) -> Path:
    """The local copy of an original checkpoint, downloaded where it is not cached; an interrupted download resumes.

    Raises ValueError if its md5 does not begin with `md5_prefix`, ConnectionError if the address cannot be read.
    """
    path = originals_folder() / url.split("://", 1)[1]
    if path.is_file():
        return path
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError(
            f"{url} is not in {originals_folder()} and HF_HUB_OFFLINE is set; unset it once to download"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with filelock.FileLock(path.with_suffix(".lock")):  # two at once would both add to the part
        if path.is_file():
            return path
        try:
            _download(url, part)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise ConnectionError(
                f"{url} cannot be read ({error}); try again later, it resumes where it stopped"
            ) from error
        if md5_prefix is not None:
            md5 = _md5(part)
            if not md5.startswith(md5_prefix):
                part.unlink()
                raise ValueError(f"{url}: the md5 of what came is {md5}, expected {md5_prefix}…; download it again")
        os.replace(part, path)
    return path


def originals_folder() -> Path:
    """Where original files are kept: beside the hub's cache."""
    return Path(huggingface_hub.constants.HF_HOME) / "mask2former"


def _require_reachable(repo_id: str) -> None:
    """ConnectionError unless the hub answers or has answered before; asked once, where a download would ask for half a
    minute."""
    if isinstance(huggingface_hub.try_to_load_from_cache(repo_id, "config.json"), str):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo_id, "config.json"))
    except HfHubHTTPError:
        pass  # an answer, if only that there is no such file: the download says so
    except Exception as error:  # of httpx or requests, as the version of huggingface_hub has it
        raise LocalEntryNotFoundError(str(error)) from error


def _fetch(repo_id: str, name: str, commit: str) -> bool:
    """Put a file of a repository into the cache; whether there is such a file."""
    for _ in range(ATTEMPTS):
        try:
            huggingface_hub.hf_hub_download(repo_id, name, revision=commit)
            return True
        except EntryNotFoundError:
            return False
        except BROKEN_OFF as error:  # the next attempt resumes
            broken = error
    raise ConnectionError(
        f"{repo_id}: the connection broke off within {name}; try again later, it resumes where it stopped"
    ) from broken


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, part: Path) -> None:
    """Append to `part` what it still lacks of the file at `url`."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left: the part is whole, or longer than the file; the checksum will tell
            return
        raise
    with response:
        if response.status != 206:  # the server sends everything again
            done = 0
        left = int(response.headers.get("Content-Length", 0))
        with (
            open(part, "ab" if done else "wb") as file,
            tqdm(total=done + left or None, initial=done, unit="B", unit_scale=True, desc=Path(url).name) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            if left and file.tell() != done + left:
                raise ConnectionError(f"got {file.tell()} of {done + left} bytes")
