"""System packages that a test needs: installed where TEST_PACKAGES=install says so, as in CI, since
nobody's own machine is to be changed by tests unasked."""

import os
import shutil
import subprocess
from collections.abc import Iterable

import pytest


def need(commands: Iterable[str], *packages: str) -> None:
    """Skip the test, saying why, where one of `commands` is missing and `packages` (Debian's names)
    may not be installed, or cannot be."""
    missing = [command for command in commands if shutil.which(command) is None]
    if not missing:
        return
    without = f"{', '.join(missing)} not installed"
    if os.environ.get("TEST_PACKAGES") != "install":
        wanted = " ".join(packages)
        pytest.skip(f"{without}; TEST_PACKAGES=install lets root on Debian install {wanted}")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"{without}; that takes root, and apt-get for {' '.join(packages)}")
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]  # tests of another worker install too
    subprocess.run([*apt, "update"], capture_output=True)
    done = subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *packages],
        capture_output=True,
        text=True,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        pytest.skip(f"{without}, and cannot be: {' '.join(done.stderr.split())[-300:]}")
