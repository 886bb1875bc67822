"""The command line: `python -m jaxnn`, or `jaxnn` where the package is installed."""

import sys

from jaxnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
