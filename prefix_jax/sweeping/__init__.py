"""Sweeps: many configurations of one recipe, trained together where they can share a program."""
