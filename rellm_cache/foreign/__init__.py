"""Other projects' checkpoints, made into folders that rellm and transformers load natively."""
