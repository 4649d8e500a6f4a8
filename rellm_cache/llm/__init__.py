"""The frozen chat LLM: loading, prompts, packed rows."""
