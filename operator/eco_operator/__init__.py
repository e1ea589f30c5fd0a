"""The operator: sets EcoWorkers and WalSyncs right, and tells how every journal is.

Ways of import: `handlers > reconcile > resources`, all of them pure. `cluster` is the only module that talks to the
API server, `probes` the only one that talks to workers, and only `loop` and `__main__` use the two. Kopf appears in
`handlers` and `__main__` alone.
"""
