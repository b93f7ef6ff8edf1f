"""What did the edit do, and what not?"""
