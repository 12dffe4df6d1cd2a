"""The audit of a classifier: which neurons stand for expected and for spurious concepts, what they do, and pruning."""
