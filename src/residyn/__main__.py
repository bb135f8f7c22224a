"""`python -m residyn` is the command line."""

from residyn.cli import main

if __name__ == "__main__":
    main()
