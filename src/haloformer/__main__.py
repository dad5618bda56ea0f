"""``python -m haloformer``, which torchrun can start."""

import sys

from haloformer.cli import main

if __name__ == "__main__":
    sys.exit(main())
