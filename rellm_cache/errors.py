"""The errors a user can meet. Nothing enters; every other module raises these.

A message says which file or key, what was found, what was expected and how to mend it.
The command line prints the message alone and ends with `exit_code`.
"""


class RellmError(Exception):
    """Something the user can mend. Its text is complete without a traceback.

    Example:
        >>> import rellm_cache as rellm
        >>> try:
        ...     rellm.load_recipe("heads", set={"training.epoch": 3})
        ... except rellm.RellmError as error:
        ...     print(error)
        recipe 'heads': training: unknown key 'epoch'; did you mean 'epochs'?
    """

    exit_code = 1


def reason_of(error: Exception) -> str:
    """Why something failed: a message that is complete, or what broke and its own words."""
    return str(error) if isinstance(error, RellmError) else f"{type(error).__name__}: {error}"


class ConfigError(RellmError):
    """A recipe, an option or a model folder is not what it must be."""


class ManifestError(RellmError):
    """A manifest or one of its lines cannot be used."""


class AudioError(RellmError):
    """A clip cannot be read as it is, or its samples are unusable."""


class FrameError(RellmError):
    """An encoder's frames of one clip cannot be stored."""


class StoreError(RellmError):
    """A feature store is absent, damaged, of another fingerprint or cannot be written."""


class WorkersError(RellmError):
    """Worker processes cannot be kept alive."""


class JournalError(RellmError):
    """A line of unfinished work cannot be read."""


class RunError(RellmError):
    """A run folder cannot be written, read or continued."""
