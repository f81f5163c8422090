"""``python -m peers.cli`` is ``peerage``."""

import sys

from peers.cli import main

sys.exit(main())
