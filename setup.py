"""Packages of the wheel, with the recipes in `configs/` as `prefix_jax.recipes`; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["prefix_jax*"]), "prefix_jax.recipes"],
    package_dir={"prefix_jax.recipes": "configs"},
)
