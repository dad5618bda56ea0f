"""``python -m haloformer``."""

import sys

from haloformer.cli import main

sys.exit(main())
