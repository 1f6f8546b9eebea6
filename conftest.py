"""The tests' own plugins: pytester runs the anchor plugin in a pytest of its own."""

pytest_plugins = ["pytester"]
