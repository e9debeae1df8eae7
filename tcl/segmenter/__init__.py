"""Segment anything you can name: any picture and some words in, masks out.

Shapes in this package: N words, H W pixels of the picture, h w pixels of the size at which the model sees it.
"""
