"""openr1: reinforcement learning of reasoning on rewards that can be verified.

`import openr1` loads nothing heavy; import the module that you need.
"""

__version__ = "0.1.0"
