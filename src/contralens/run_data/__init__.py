"""A finished run with its images and numbers available again."""
