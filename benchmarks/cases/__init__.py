"""One file an area, each with `cases(full)`: what is timed there, at which sizes. `full` adds sizes that take long."""
