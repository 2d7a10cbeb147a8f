"""How the demo model was made: from folders of text to a language model with SAEs. README.md has the commands.

Programs, not a library: nothing in saeserve_server imports from here, and nothing here imports saeserve_server.
"""
