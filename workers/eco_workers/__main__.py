"""The command `eco-worker`: run a shard, do its jobs, check its surroundings, send tasks, deal with dead letters."""

import logging
import sys
from pathlib import Path
from typing import Final

from eco_workers.errors import EcoWorkerError, SettingsError

EXIT_SETTINGS: Final = 2
EXIT_FAILED: Final = 1


def main() -> None:
    """Entry point: our own errors are one line for a person, never a traceback."""
    # A module of the user's own tasks may lie beside where the command is run.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        if sys.argv[1:] == ["run"]:
            # Without the command line's own library: the start of a worker is part of its recovery time.
            from eco_workers.runtime.process import run_worker  # noqa: PLC0415  # see above

            raise SystemExit(run_worker())
        from eco_workers.cli import app  # noqa: PLC0415  # see above

        # A command says in one line what went wrong; a library's own line about it would be a second one.
        logging.getLogger().addHandler(logging.NullHandler())
        app()
    except SettingsError as error:
        _say(str(error))
        raise SystemExit(EXIT_SETTINGS) from None
    except EcoWorkerError as error:
        _say(str(error))
        raise SystemExit(EXIT_FAILED) from None


def _say(text: str) -> None:
    sys.stderr.write(f"eco-worker: {text}\n")


if __name__ == "__main__":
    main()
