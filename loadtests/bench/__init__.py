"""`make bench`: this server beside the plain way, an earlier revision, and the floor of the products, in one run."""

import os

# As the server has it, before torch is imported: threads that wait for each other take no CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
