"""The way in for users of the reference project: its YAML files as recipes, its checkpoints as networks."""
