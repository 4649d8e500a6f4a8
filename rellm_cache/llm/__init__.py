"""The frozen chat LLM: loading, prompts, packed rows, LoRA, generation.

It takes a recipe's `[llm]`, prompts and speech embeddings. It returns hidden states and texts, and
gradients of the speech embeddings.
"""
