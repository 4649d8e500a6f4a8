"""Module entry point: `python -m rellm_cache.cli …` is `rellm …`."""

from rellm_cache.cli import main

if __name__ == "__main__":
    main()
