"""The reward server: grades responses over HTTP, in a process of its own that needs neither torch nor openr1."""
