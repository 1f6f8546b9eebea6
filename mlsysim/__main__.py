"""``python -m mlsysim``: the command line."""

import sys

from mlsysim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
