"""Shared runs in dataset repositories of the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contralens.checks import require
from contralens.errors import InputError, StoreError

HUB = "hf:"
LOG_IN = "; log in with `hf auth login`, or set HF_TOKEN"


def repo_of(spec: str) -> tuple[str, str | None]:
    """Repository and revision of "hf:OWNER/NAME@REVISION"."""
    repo, at, revision = spec.removeprefix(HUB).partition("@")
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name or (at and not revision):
        raise InputError(f"a repository on the Hub is written hf:OWNER/NAME; got {spec!r}")
    return repo, revision or None


def upload(repo: str, folder: Path, public: bool) -> str:
    """Upload a folder to a dataset repository, made if there is none; returns the address of the commit."""
    hub = require("huggingface_hub", "share")
    with _explained(repo):
        api = hub.HfApi()
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="contralens push",
            delete_patterns=["run/*", "run/**/*"],
        )  # fmt: skip
        return str(done.commit_url)


@contextmanager
def fetched(source: str) -> Iterator[Path]:
    """A shared run of a repository, downloaded to a folder that is removed at the end."""
    repo, revision = repo_of(source)
    hub = require("huggingface_hub", "share")
    with tempfile.TemporaryDirectory(prefix="contralens-pull-") as folder:
        with _explained(repo):
            hub.snapshot_download(
                repo, repo_type="dataset", revision=revision, local_dir=folder,
                allow_patterns=["share.json", "labels.json", "run/*"],
            )  # fmt: skip
        yield Path(folder)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the Hub refuses into one line; the token is in none of its messages."""
    errors = require("huggingface_hub.errors", "share")
    try:
        yield
    except errors.OfflineModeIsEnabled as e:
        raise StoreError("the Hub cannot be reached: HF_HUB_OFFLINE is set") from e
    except errors.RevisionNotFoundError as e:
        raise InputError(f"the repository {repo} has no such revision") from e
    except errors.RepositoryNotFoundError as e:
        raise InputError(f"the Hub shows no dataset repository {repo} to you{LOG_IN}") from e
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, errors.HFValidationError, OSError) as e:
        status = getattr(getattr(e, "response", None), "status_code", None)
        line = next(iter(str(e).strip().splitlines()), "") or type(e).__name__
        hint = LOG_IN if status in (401, 403, None) else ""
        raise StoreError(f"the Hub refused {repo}: {line[:200]}{hint}") from e
    except Exception as e:  # the Hub's client passes on errors of whichever HTTP library it was built on
        if not type(e).__module__.startswith("http"):
            raise
        raise StoreError(f"the connection to the Hub broke ({type(e).__name__}); try again") from e
