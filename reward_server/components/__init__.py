"""Building blocks of tasks: each module checks one property of a response."""
