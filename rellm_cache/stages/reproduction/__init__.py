"""The paper's experiments, from a corpus's folder to its table."""
