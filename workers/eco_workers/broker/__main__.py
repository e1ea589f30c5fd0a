"""`python -m eco_workers.broker` prints the topology as a RabbitMQ definitions file, for a broker and for charts."""

import argparse
import json
import sys

from eco_workers.broker.topology import definitions


def main(arguments: list[str] | None = None) -> int:
    """Print the definitions of one virtual host."""
    parser = argparse.ArgumentParser(prog="python -m eco_workers.broker", description=__doc__)
    parser.add_argument("--vhost", default="/", help="virtual host to declare everything in (/)")
    asked = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(definitions(asked.vhost), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
