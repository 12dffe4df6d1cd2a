"""Images through networks into the store, on one machine or many."""
