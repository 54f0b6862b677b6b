"""Will a run fit, and how long will a step take: computed from its config, before anything starts."""
