"""The parts of benchmarks/train_step.py. Nothing here but `ours` imports wrpo_ray: the rest also runs beside TRL."""
