"""The HTTP surface of a worker: probes, metrics, the health report, and the operator's commands.

Reading is open inside the cluster; a command needs the bearer token that the operator made. What a command does is told
by a protocol: this package knows neither journal nor broker.
"""
