"""Commands of `hf-llc`, one a module: `add(commands)` registers its arguments and what runs it."""
