"""Image-text pairs: download them, describe them in a manifest, read them back in a fixed random order."""
