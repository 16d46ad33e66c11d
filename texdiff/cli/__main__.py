"""`python -m texdiff.cli`, where the `texdiff` command is not on the path."""

import sys

from texdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
