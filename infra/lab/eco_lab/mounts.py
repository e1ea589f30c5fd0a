"""What is mounted where. Reads the kernel's list: a bind mount on itself escapes `os.path.ismount`."""

import re
from pathlib import Path

from eco_lab.processes import run

_OCTAL = re.compile(r"\\([0-7]{3})")


def mounted() -> list[Path]:
    """Every mount point that this process sees, in the order they were mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), line.split(" ")[4])) for line in lines]


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    return path in mounted()


def share(path: Path) -> None:
    """Make a directory a mount of its own whose later mounts are seen by machines that already run."""
    path.mkdir(parents=True, exist_ok=True)
    if not is_mounted(path):
        run(["mount", "--bind", path, path])
    run(["mount", "--make-shared", path])


def unmount_all_below(path: Path) -> None:
    """Unmount a path and all below it, newest first."""
    for mount in reversed([point for point in mounted() if point.is_relative_to(path)]):
        run(["umount", "--lazy", mount])
