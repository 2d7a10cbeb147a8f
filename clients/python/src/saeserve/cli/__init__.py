"""The command line `saeserve`. It imports the client; nothing imports it."""

import os

# Read when grpc is imported: what goes wrong is said by us, in one line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
