"""HTTP reward server: grades model responses in a separate process that needs neither torch nor openr1."""
