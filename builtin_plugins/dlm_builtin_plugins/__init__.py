"""The built-in components: ordinary plugins that implement the whole specification."""
