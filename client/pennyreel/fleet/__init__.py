"""The machines that jobs may run on: what this one has."""
