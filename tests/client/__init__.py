"""The client against a fake service in this process: nothing here needs torch or the server's code."""
