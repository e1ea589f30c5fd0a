"""The API of the operator, and all that operator and worker must agree on.

What lives here: the pydantic models of the custom resources (one kind a file), the generator that turns a model into a
structural schema, the names both sides use (`contract`), and the health report of a journal (`wal`). Pure: no I/O, no
client library. Both `eco_operator` and `eco_workers` import this package; it imports neither.
"""
