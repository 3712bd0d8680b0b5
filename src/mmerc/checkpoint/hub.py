"""Checkpoints on the Hugging Face Hub: fetched by their name there, file by file, and put there.

Only files that the caller names are fetched; what else lies in the repository stays where it is.
"""

import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING

from mmerc.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_OFFLINE = "HF_HUB_OFFLINE is set, and it is not in the cache: unset it, or fetch the model first"
_log = logging.getLogger(__name__)


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a model on the Hub: `name/model`, one slash and no more."""
    return _NAME.fullmatch(text) is not None


def fetch(name: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Fetch files of a repository, unless they lie in the cache; return the folder that they lie in.

    Without a network, and with HF_HUB_OFFLINE, the cache is all there is.

    Args:
        name: of the repository, `name/model`
        files: their paths in it
        revision: a branch, a tag or a commit; the last part of the folder's path is the commit

    Raises:
        CheckpointError: there is no such repository, revision or file, or the Hub is not reached.
    """
    _log.info("%s: fetching %s from the Hugging Face Hub, unless it is in the cache", name, ", ".join(files))
    at = f" at revision {revision}" if revision else ""
    with _explained(f"there is no folder {name} here, and on the Hugging Face Hub no {name}{at} can be had"):
        folder = Path(_first(name, files[0], revision).removesuffix(files[0]))
        for file in files[1:]:  # of the same commit, whatever is pushed meanwhile
            _api().hf_hub_download(name, file, revision=folder.name)
    return folder


def _first(name: str, file: str, revision: str | None) -> str:
    """Fetch a file; where nobody answers, look into the cache at once: a download would try for long."""
    from huggingface_hub import errors

    api = _api()
    if revision is None or not _COMMIT.fullmatch(revision):  # a commit may be in the cache
        try:
            api.model_info(name, revision=revision, timeout=10)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except Exception:  # of whatever stands between here and the Hub
            with suppress(errors.LocalEntryNotFoundError):
                return api.hf_hub_download(name, file, revision=revision, local_files_only=True)
            raise
    return api.hf_hub_download(name, file, revision=revision)


def put(name: str, files: Mapping[str, Path | bytes], message: str, private: bool = False) -> str:
    """Put files into a repository in one commit; make the repository if there is none. Return its address.

    Raises:
        CheckpointError: `name` is no name, the Hub is not reached, or does not let this user write; or a
            repository that everybody can read is there, and `private` was asked for.
    """
    from huggingface_hub import CommitOperationAdd

    if not is_name(name):
        raise CheckpointError(f"{name!r} is not the name of a model on the Hub: expected name/model")
    api = _api()
    with _explained(f"{name} cannot be put on the Hugging Face Hub"):
        address = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise CheckpointError(f"{address} is there, and everybody can read it: nothing was uploaded")
        additions = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(name, additions, commit_message=message)
    return str(address)


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="mmerc", library_version=importlib.metadata.version("mmerc"))


@contextmanager
def _explained(failed: str) -> Iterator[None]:
    """Say in a line what the Hub's library says in many."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        reason = _OFFLINE
    except errors.LocalEntryNotFoundError as error:
        reason = _OFFLINE if constants.HF_HUB_OFFLINE else f"the Hub is not reached ({_cause(error)})"
    except errors.GatedRepoError:
        reason = "its owner asks for consent first: give it on the model's page, and log in, `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "there is none of that name, or it is private: log in, `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = "it has no such revision"
    except errors.EntryNotFoundError as error:
        missing = (
            str(error.response.url).rpartition("/")[2] if isinstance(error, errors.HfHubHTTPError) else ""
        )
        reason = f"it is not a checkpoint of mmerc: it has no {missing}"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = ": log in, `hf auth login`" if status in (401, 403) else ""
        reason = f"the Hub answers {status} {responses.get(status, '')}{hint}"
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        reason = _cause(error)
    except Exception as error:  # of the HTTP client or of Xet: they have no base in common
        reason = f"the Hub is not reached ({_cause(error)})"
    else:
        return
    raise CheckpointError(f"{failed}: {reason}") from None


def _cause(error: BaseException) -> str:
    """Return in a line what lies at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
