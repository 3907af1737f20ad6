"""``python -m mlpbank``."""

import sys

from mlpbank.cli import main

sys.exit(main())
