"""A run as it is seen while it works: a display on a terminal, lines in a job's log, metrics for Prometheus."""
