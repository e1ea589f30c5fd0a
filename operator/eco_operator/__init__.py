"""The operator: sets EcoWorkers and WalSyncs right, and tells how every journal is.

Ways of import: `handlers > reconcile > resources`, all of them pure. `cluster` is the only module that talks to the
API server, `probes` the only one that talks to workers, and only `loop`, `following` and `__main__` use them. Kopf
appears in `handlers` and `__main__` alone.
"""
