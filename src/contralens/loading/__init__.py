"""Where networks come from: names, files of weights, the user's own code; and their preprocessing."""
