"""The process of one shard: takes deliveries into the journal, runs what is due, publishes, syncs, drains.

`worker` puts the parts together and owns their lives; `intake` turns deliveries into tasks or refusals; `executor` runs
tasks; `relay` empties the outbox; `health` tells how it all stands. No client library and no SQL here.
"""
