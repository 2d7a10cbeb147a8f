"""The command line `saeserve`. It imports the client; nothing imports it."""
