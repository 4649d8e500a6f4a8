"""upload. In: a published folder. Out: the same files in a repository of a model hub.

The hub's own client does it, with the login it keeps (`hf auth login`, or `HF_TOKEN`).
"""

from collections.abc import Iterable
from pathlib import Path

from rellm_cache import __version__
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.utils.model_files import HUB_ID, hub_errors


def require_hub_id(repository: str) -> None:
    """Raise `ConfigError` unless a repository is written as OWNER/NAME."""
    if not HUB_ID.fullmatch(repository):
        raise ConfigError(f"--upload {repository}: expected OWNER/NAME, as the model hub has them")


def upload(folder: Path, files: Iterable[str], repository: str, private: bool = False) -> str:
    """Put files of a folder into a model repository, which is made if need be; returns its URL.

    A repository that is there stays as visible as it is.

    Raises:
        ConfigError: `repository` is no OWNER/NAME.
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
            f"and give the same command again: {folder} is whole"
        ) from error
    return str(url)
