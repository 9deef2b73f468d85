"""The command line, the page in the browser, and their shared parts."""
