"""`python -m rellm_cache.cli …` is `rellm …`, for launchers that start modules."""

from rellm_cache.cli import main

if __name__ == "__main__":
    main()
