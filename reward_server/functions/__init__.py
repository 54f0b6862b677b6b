"""Reward functions of the user: found in a module that the user names, and called in worker processes."""
