"""Many devices at once, each on a node of a Ray cluster: `run.Fleet`.

The head owns the store, the sessions and the judging; a device (`board.Board`) only times the subnets that it is given.
"""
