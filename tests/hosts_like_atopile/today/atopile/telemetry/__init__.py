"""As in atopile, where the names are in modules of this package."""
