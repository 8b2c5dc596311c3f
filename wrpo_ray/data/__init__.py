"""Generation, scoring and selection on Ray Data. Knows nothing of training: the two meet only in Parquet."""
