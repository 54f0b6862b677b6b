"""Decides whether two readings are equal: by structure, by exact arithmetic, and by values."""
