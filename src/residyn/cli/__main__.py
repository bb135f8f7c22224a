"""`python -m residyn.cli`, for where the script is not on the path."""

import sys

from residyn.cli import main

if __name__ == "__main__":
    sys.exit(main())
