"""Objects and pictures: the S3 client and the work on image bytes.

`objects` is the only module that imports an S3 client; `pictures` is pure and runs in a process of its own. Neither
knows a task, a journal or a broker.
"""
