"""Queue workers that write every task to a local journal before they own it.

One asyncio process per shard. Imports point one way: `__main__` > `runtime` > `tasks` > `journal` | `broker` | `sync` |
`storage` | `llm` > `errors`; those five do not know each other. SQLite is opened in `journal` only; a client of the
broker, of PostgreSQL, of S3 or of a model provider is imported in its own folder only.
"""

__version__ = "0.1.0"
