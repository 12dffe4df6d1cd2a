"""A finished run with its images and numbers at hand again."""
