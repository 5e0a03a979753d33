"""The distribution's version, and the versions of the wire it speaks.

`CONTRACT` rises when a request of the new version would be misread by a worker of the old one.
Additions that an old reader may ignore (a new field in a result) do not raise it: results,
progress and errors are read leniently.
"""

__version__ = "0.1.0"

CONTRACT_MIN = 1
"""The oldest request version this code accepts."""

CONTRACT = 1
"""The request version this code writes, and the newest it accepts."""
