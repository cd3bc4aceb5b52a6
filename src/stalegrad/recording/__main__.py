"""A worker that the server has started: `launch.Started` gives the arguments."""

import sys

from stalegrad.io.errors import StalegradError
from stalegrad.recording import launch


def main() -> int:
    launch.end_with_parent()
    # What is heavy to import comes once the process heeds the end of the one that started it.
    from stalegrad.recording import worker
    from stalegrad.recording.links import Place

    number, address, port, interface, start_timeout = sys.argv[1:]
    try:
        worker.run(int(number), Place(address, int(port), interface), float(start_timeout))
    except StalegradError as error:
        print(f"stalegrad: worker {number}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
