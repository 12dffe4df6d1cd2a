"""Sparse autoencoders: the one formula, and the files that trainers write."""
