"""Candidate labels beyond the vocabulary: from vision-language models and caption banks."""
