"""Of the worker; a package, so that no script of this name is taken for it."""
