"""Studies: many runs that differ in a few values, each step of which is made once (jobs/study.py)."""
