"""Training on Ray Train and DeepSpeed."""
