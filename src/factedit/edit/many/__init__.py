"""What methods for many facts are made of: hidden values, keys, joint solves, their history, and rules on updates."""
