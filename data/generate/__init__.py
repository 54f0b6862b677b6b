"""Generators of Countdown and 24-game problems, search traces, sample data and the tiny model."""
