"""The command `kubectl eco`: what people look at and ask for, from a shell.

It reads objects and sets annotations by running kubectl itself, so it has the rights, contexts and logins of whoever
runs it and none besides. It acts on nothing: the operator does, once it sees the annotation. Nothing else of the
operator imports this package, and it imports nothing of the operator: it needs the extra `plugin` only.
"""
