"""Compatibility with other RL frameworks: OpenRLHF's HTTP clients, and reward functions for TRL, verl and OpenRLHF."""
