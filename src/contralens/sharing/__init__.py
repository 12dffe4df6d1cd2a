"""Labels for others: label files, and runs pushed and pulled."""
