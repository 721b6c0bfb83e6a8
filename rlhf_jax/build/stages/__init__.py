"""The stages that a config can name, one module each, and what belongs to one alone."""
