"""What one does with factedit, a function each: the command line, a page and a cluster call these and show the result.

Nothing here prints: progress goes to a callback, notes to the logger `factedit`, results to the caller.
"""
