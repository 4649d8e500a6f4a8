"""From feature stores to batches: collation, reused memory, prefetching threads."""
