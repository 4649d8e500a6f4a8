"""Upload of a published folder to a model hub.

It uses the hub's own client and login (`hf auth login`, or `HF_TOKEN`).
"""

from collections.abc import Iterable
from pathlib import Path

from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.utils.model_files import HUB_ID, hub_errors
from rellm_cache.version import __version__


def require_hub_id(repository: str) -> None:
    """Raise `ConfigError` unless a repository is written as OWNER/NAME."""
    if not HUB_ID.fullmatch(repository):
        raise ConfigError(
            f"--upload {repository}: expected OWNER/NAME, a repository of the model hub"
        )


def upload(folder: Path, files: Iterable[str], repository: str, private: bool = False) -> str:
    """Upload files of a folder to a model repository, which is created if needed; return its URL.

    The visibility of an existing repository does not change.

    Raises:
        ConfigError: `repository` is not written as OWNER/NAME.
        RellmError: there is no login, no network, or the hub refused.
    """
    require_hub_id(repository)
    from huggingface_hub import HfApi

    api = HfApi(library_name="rellm", library_version=__version__)
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=sorted(files),
            commit_message=f"Published with rellm {__version__}",
        )
    except hub_errors() as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise RellmError(
            f"{repository}: could not be uploaded ({type(error).__name__}: {reason}); log in with "
            "`hf auth login` or set HF_TOKEN to a token that may write there, check the network, "
            f"and run the same command again: {folder} is complete"
        ) from error
    return str(url)
