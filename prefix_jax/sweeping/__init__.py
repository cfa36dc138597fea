"""Sweeps: configurations of one recipe, trained together if they can share a program."""
