"""The command line and its surroundings: the one room that knows argparse, environment variables, DVC and MLflow."""
