"""Log files of workflow jobs."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from stalegrad.io.errors import StalegradError
from stalegrad.io.files import reported


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    """Send what is printed inside to the log at `path`.

    A StalegradError ends the job with its message, there and on the terminal, and no traceback; so
    does an interrupt.
    """
    try:
        with reported(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", encoding="utf-8", buffering=1) as log:
                try:
                    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                        yield
                except StalegradError as error:
                    with contextlib.suppress(OSError):  # if it is full, see the terminal
                        print(error, file=log)
                    raise
    except StalegradError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
