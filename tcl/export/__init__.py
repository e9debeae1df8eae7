"""TCL for other runtimes: the dense image tower and the grounder as one graph of dynamic size, checked by numbers."""
