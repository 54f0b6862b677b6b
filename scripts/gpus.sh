# Sourced by the scripts that choose a default config: the number of GPUs that nvidia-smi lists, 0 without it.
count_gpus() { (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU' || true; }
