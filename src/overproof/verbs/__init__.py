"""The verbs of the command line as Python functions; they return values and print nothing."""
