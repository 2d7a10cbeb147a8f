"""`saeserve-server index`: build, merge, verify, info."""
