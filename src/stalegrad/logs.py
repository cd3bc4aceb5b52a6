"""What a workflow job says, in its log file."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from stalegrad.errors import StalegradError


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    """Send what is printed inside to the log at `path`.

    A StalegradError ends the job with its message, there and on the terminal, and no traceback; so
    does an interrupt.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", buffering=1) as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        except StalegradError as error:
            with contextlib.suppress(OSError):  # where the disk is full, the terminal must do
                print(error, file=log)
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted")
