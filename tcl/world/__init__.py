"""The demo world: procedural scenes with captions, on which the whole method learns in minutes on a laptop.

`build.build` writes it as the outside world would offer it: a web site of image-text pairs to download, and five
segmentation data sets in the layout and label values of their publishers.
"""
