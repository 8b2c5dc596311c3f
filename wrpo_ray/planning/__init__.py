"""What a run will take before it is started: tokens, time, money, memory, and the schedule on a cluster.

schedule.py is plain arithmetic that a running scheduler can use as well; generation.py, passes.py and the two files on
memory hold the formulas; stages.py applies them to a config; plan.py puts all of it together.
"""
