"""A real cluster with its servers on one Linux machine, for the demo, tests and drills.

Here: what starts, feeds, breaks and removes the lab. Not here: anything that operator or workers import.
Modules build on one another in this order: `errors`, `paths`, `processes` < `programs`, `machines`, `images` <
`control_plane`, `nodes`, `services` < `environment` (the way in for other code) < `__main__` (the command line).
"""
