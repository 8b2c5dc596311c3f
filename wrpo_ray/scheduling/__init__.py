"""Which steps of a run are worked on now, and with how much of the cluster: pure policy, and threads that obey it."""
