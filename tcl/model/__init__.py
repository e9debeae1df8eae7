"""The model: CLIP's frozen towers, the grounder that TCL learns, and the checkpoint that holds both.

Shapes in this package: B images on this rank, N texts of all ranks, C channels, H W pixels, g the CLIP grid (gh, gw),
h w the mask grid.
"""
