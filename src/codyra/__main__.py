"""`python -m codyra` is the command `codyra`."""

from codyra.cli import main

if __name__ == "__main__":
    main()
