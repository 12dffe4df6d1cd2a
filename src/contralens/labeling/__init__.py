"""A run made: the neurons of one layer, or of several, labeled and kept with their evidence."""
