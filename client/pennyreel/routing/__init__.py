"""Which backend a job goes to, and what happens when that one fails: rules without I/O."""
