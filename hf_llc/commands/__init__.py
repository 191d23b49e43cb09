"""Commands of `hf-llc`, one a module: `add(commands)` registers it."""
