"""What a compiled program does: its matrix products and collectives, counted as often as they run."""
