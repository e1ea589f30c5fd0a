"""Programs of the cluster: where they come from, in this order of preference.

1. a directory that `ECO_LAB_BIN` names; 2. the cache; 3. official downloads, checksums verified; 4. built from Go
modules. A set of programs is complete or not there: it is made beside its place and moved in.
"""
