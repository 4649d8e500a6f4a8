"""The inside of `extract`: scanning, the pipeline of one worker, and many workers."""
