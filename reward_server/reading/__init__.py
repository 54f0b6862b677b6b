"""Reads answers: text into tokens, tokens into a tree in which each of them has a place."""
