"""Command line: one file for each command of `rellm`.

Enters: arguments. Leaves: the printed report of one library function, and an exit code: 0 done;
1 failed, with a message; 2 wrong usage; 3 done, but some clips or runs failed and are listed;
130 interrupted. Commands import the library when they run, so that `--help` is fast.
"""

import sys

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run rellm and end the process with its exit code."""
    try:
        from rellm_cache.cli.commands import run  # here, so that Ctrl-C during imports is handled

        code = run(arguments)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to continue.", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
