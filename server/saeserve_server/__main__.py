"""`python -m saeserve_server` is `saeserve-server`."""

import sys

from saeserve_server.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
