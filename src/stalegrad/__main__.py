import sys

from stalegrad.cli import main

sys.exit(main())
