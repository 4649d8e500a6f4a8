"""A plug-in of each kind for rellm: encoder, adapter, loss, corpus."""
