"""Objects, segments and pictures: what lies in S3, and the work on image bytes.

`client` makes the S3 client for `objects` (what tasks store) and `segments` (a journal's replica); `pictures` is pure
and runs in a process of its own. None of them knows a task, a journal or a broker.
"""
