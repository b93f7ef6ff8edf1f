"""The local page: see, change, prove and undo facts in a browser, with the numbers of the command line."""
