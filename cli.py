"""`python cli.py …` is `rellm …` from a checkout. It is never installed."""

from rellm_cache.cli import main

if __name__ == "__main__":
    main()
