"""Questions about clips: requests to the writer LLM, parsing of its replies, filters, and files.

Input: utterances with labels, and texts of an LLM. Output: rows of questions and answers.
"""
