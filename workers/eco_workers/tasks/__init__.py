"""Tasks: how one is written, what it may ask of its surroundings, and the tasks that ship with each role.

`registry` has the decorator, `context` what a running task holds in its hand, `processes` runs CPU work outside the
loop, `resources` opens clients when a task first needs them. A role's own tasks are modules here; a user's tasks are
modules of their own, named in `ECO_TASK_MODULES`.
"""
