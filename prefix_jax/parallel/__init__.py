"""Meshes, shardings and processes; analysis of the matrix products and collectives of compiled programs."""
