"""Folders to the Hugging Face hub, by its own client: its token, its retries, its way of uploading large files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_ray.errors import ConfigError
from wrpo_ray.redaction import last_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KINDS = ("model", "dataset")


def push(folder: Path, name: str, public: bool = False) -> list[str]:
    """Upload `folder`/model and `folder`/dataset to the hub's model and data set called `name`; return their addresses.

    Both are made when they are not there, private unless `public`. The token is the client's: HF_TOKEN, or what
    `hf auth login` stored. Raises ConfigError when there is none, when the hub refuses, and when a repository is public
    already that was not asked to be.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError

    if get_token() is None:
        raise ConfigError(
            "there is no token for the Hugging Face hub",
            code="WRPO-C094",
            help="`hf auth login`, or set HF_TOKEN to a token that may write",
        )
    api = HfApi(library_name="wrpo_ray")
    try:
        return [_push_one(api, folder / kind, name, kind, public) for kind in KINDS]
    except (HTTPError, HFValidationError, OSError) as error:
        raise ConfigError(
            f"the hub did not take {name}: {type(error).__name__}: {last_line(str(error))}",
            code="WRPO-C094",
            help="`hf auth whoami` says who you are there; run the same command again: what is there stays",
        ) from error


def _push_one(api: HfApi, folder: Path, name: str, kind: str, public: bool) -> str:
    address = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
    if not public and not api.repo_info(address.repo_id, repo_type=kind).private:
        raise ConfigError(
            f"the {kind} {address.repo_id} of the hub is public",
            code="WRPO-C095",
            help="say --public if that is meant, or name another one",
        )
    api.upload_folder(
        repo_id=address.repo_id, folder_path=folder, repo_type=kind, commit_message=f"wrpo-ray export: {kind}"
    )
    return str(address)
