"""Documents whose facts are known, as prefixes of several lengths; see README.md."""
