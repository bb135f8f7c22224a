"""`python -m residyn` is the command line."""

import sys

from residyn.cli import main

if __name__ == "__main__":
    sys.exit(main())
