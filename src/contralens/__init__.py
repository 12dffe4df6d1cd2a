"""contralens: what the neurons of a vision network respond to, told with contrastive examples, and proved."""

__version__ = "0.1.0"
