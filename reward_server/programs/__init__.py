"""Runs programs that a policy wrote, apart from everything else, and grades them by tests."""
