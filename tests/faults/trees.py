"""What is in a folder, to be compared before and after."""

import hashlib
import os
import stat
from pathlib import Path


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Kind and content of every file in `folder`, without following links or opening what may block."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode, content = path.lstat().st_mode, ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            content = os.readlink(path)
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found
