"""What a user does, one function each: the command line parses, calls one of them, and shows."""
