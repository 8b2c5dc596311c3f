"""How many responses per second the run itself can carry, without any model: see benchmarks.control_plane.__main__."""
