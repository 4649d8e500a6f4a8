"""Questions about clips: requests to the writer LLM, parsing of its replies, filters, and files.

Utterances with labels and the texts of an LLM enter. Rows of questions and answers leave.
"""
