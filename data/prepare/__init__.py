"""Download public datasets, prepare training sets and select training prompts: `python -m cli data`."""
