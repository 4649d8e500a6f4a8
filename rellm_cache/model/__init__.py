"""What trains (adapter and heads) and how it meets the frozen LLM."""
