"""What holds for every test: nobody looks for peers on the network around this device."""

import os

os.environ.setdefault("PEERAGE_ZEROCONF_INTERFACE", "127.0.0.1")
