"""The distribution's version, and the versions of the wire it speaks.

`CONTRACT` rises when a request can say what a worker of the former version would refuse or
misread: a new field, a new value of a closed set, a changed meaning. Additions to answers do not
raise it: results, progress and errors are read leniently. docs/contract.md has the whole rule.
"""

__version__ = "0.1.0"

CONTRACT_MIN = 1
"""The oldest request version this code accepts."""

CONTRACT = 1
"""The request version this code writes, and the newest it accepts."""
