"""Places that run jobs. Each is one file; none knows another."""
