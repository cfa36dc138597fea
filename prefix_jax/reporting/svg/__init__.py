"""SVG plots and HTML pages: pure functions that return text and import nothing else of this package."""
