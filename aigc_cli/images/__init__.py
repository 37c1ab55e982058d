"""Image files: listing, reading, decoding, perturbing, and the demonstration set."""
