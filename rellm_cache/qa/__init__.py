"""Questions about what is said and how: rows, the writer's prompts, parsing, filters."""
