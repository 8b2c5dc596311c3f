"""The parts of benchmarks.sampling_throughput: its models and requests, its contestants, and how they are measured."""
