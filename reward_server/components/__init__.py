"""Checks that tasks are made of: each looks at one property of a response."""
