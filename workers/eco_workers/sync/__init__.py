"""From the journal to PostgreSQL: migrations, versioned upserts, one writer.

`database` is the only module that imports a PostgreSQL client; `copy_format` is the form in which it is given a batch;
`merge` is the SQL of the rule which report of a task wins; `writer` drains what is due, isolates a row that the
database refuses, and marks only what has been committed. The journal is known here as a protocol of three methods.
"""
