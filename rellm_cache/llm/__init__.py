"""The frozen chat LLM: loading, prompts, packed rows, LoRA, generation.

A recipe's `[llm]`, prompts and embeddings of speech enter. Hidden states and texts leave; gradients
flow back to the embeddings.
"""
