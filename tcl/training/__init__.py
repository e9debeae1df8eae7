"""Training on any number of processes: data order, optimiser, schedule, the loop, and resuming."""
