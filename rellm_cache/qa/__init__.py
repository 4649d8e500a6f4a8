"""Questions about clips: requests to the writer LLM, parsing of its replies, filters, and files.

It takes utterances with labels, and texts of an LLM. It returns rows of questions and answers.
"""
