"""The packages of the wheel, which holds `configs/` as `ine_jax.configs`; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["ine_jax*"]), "ine_jax.configs"], package_dir={"ine_jax.configs": "configs"})
