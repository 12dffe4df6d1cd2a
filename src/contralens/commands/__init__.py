"""Commands that fill a file of their own; `contralens.cli` registers them."""
