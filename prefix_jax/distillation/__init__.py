"""Documents as prefixes: keys and values of a text read once, fewer slots in their place, and training on answers."""
