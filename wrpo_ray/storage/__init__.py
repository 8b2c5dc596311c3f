"""Where a run lies and how it stays whole: stores, locations, tables, manifests, the shard ledger, the lease."""
