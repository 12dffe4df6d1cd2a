"""How faithful, specific, stable and better than chance labels are; comparisons and recipes."""
