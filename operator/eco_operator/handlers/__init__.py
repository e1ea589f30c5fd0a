"""Kopf's doors: an event comes in, is handed on, and that is all.

Kopf is a source of events here and nothing else. Its handlers for creation, update and deletion, its timers and its
daemons would put finalizers and annotations on objects; none of them is used, and no handler returns a value.
"""
