"""The frozen chat LLM: loading, prompts, packed rows, LoRA, generation.

Input: a recipe's `[llm]`, prompts and speech embeddings. Output: hidden states and texts. Gradients
flow back to the speech embeddings.
"""
