"""``python -m spikeloom`` is the command ``spikeloom``."""

import sys

from spikeloom_cli import main

sys.exit(main())
