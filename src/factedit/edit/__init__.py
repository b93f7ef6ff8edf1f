"""Editing: k*, v*, the update, and the Edit it makes."""
