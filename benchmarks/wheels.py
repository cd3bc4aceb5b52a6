"""Packages carried as wheels to a machine that reaches no network and lacks them."""

import sys
import tempfile
import zipfile
from pathlib import Path


def carry(folder: Path) -> list[str]:
    """Make the packages of the wheels in `folder` importable, before installed ones.

    Returns the names of the wheels. They are unpacked into a folder for temporary files, without
    pip. Raises SystemExit where there are none.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"{folder} holds no wheels (*.whl); name the folder that does.")
    target = Path(tempfile.mkdtemp(prefix="wheels-"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    sys.path.insert(0, str(target))
    return [wheel.name for wheel in wheels]
