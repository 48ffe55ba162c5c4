"""The tests; a package, so that an installed package of the same name does not shadow it in child processes."""
