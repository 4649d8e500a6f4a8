"""Speed and memory of training steps, measured on made data.

It takes a recipe. It returns the time, memory and use of the device of real steps of the trainer,
on made frames and responses of IEMOCAP's size; no corpus, cache or encoder is needed.
"""
