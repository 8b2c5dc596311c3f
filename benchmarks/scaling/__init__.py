"""Parts of benchmarks.scaling_sources."""
