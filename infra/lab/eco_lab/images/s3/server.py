# ruff: noqa: INP001 - copied into an image as a single file
"""The S3 stand-in: moto's server with one bucket that exists from the start. Settings: PORT, BUCKET."""

import logging
import os
import signal
import sys
import threading
import urllib.request

from moto.server import ThreadedMotoServer


def main() -> None:
    """Serve until SIGTERM."""
    # One line a request is too much for a log nobody reads.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    port, bucket = int(os.environ["PORT"]), os.environ["BUCKET"]
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=port, verbose=False)  # noqa: S104 - a pod's only address
    server.start()
    address = f"http://127.0.0.1:{port}/{bucket}"
    request = urllib.request.Request(address, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own server
        print(f"serving port {port}, bucket {bucket}: {answer.status}", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop()
    sys.exit(0)


if __name__ == "__main__":
    main()
