"""One file for each command: plain functions without any command-line code."""
