"""What is true of every backend: subclass `BackendContract` in your backend's test.

    class TestMine(BackendContract):
        backend = MyBackend
        keys: ClassVar = {"my_api_key": "MY_API_KEY"}
        lacks: ClassVar = {Scene.UNPAID: "its documentation has no 402"}

        @pytest.fixture
        def rig(self) -> Iterator[Rig]: …        # your emulation, see rig.py

        def work(self, **changes: Any) -> Work: …

A scene that your API cannot play stands in `lacks` with its reason, and the tests that need it
are not collected; there is no other way to leave one out.
"""

from __future__ import annotations

from backends.suite.base import Told
from backends.suite.fetching import Fetching
from backends.suite.following import Following
from backends.suite.opening import Opening
from backends.suite.submitting import Submitting, Unanswered

__all__ = ["BackendContract", "Told"]


class BackendContract(Opening, Submitting, Unanswered, Following, Fetching):
    """The suite, whose tests are in `backends/suite`."""

    def __init_subclass__(cls) -> None:
        for name in dir(BackendContract):
            scenes = getattr(getattr(BackendContract, name), "scenes", ())
            if any(scene in cls.lacks for scene in scenes):
                setattr(cls, name, None)  # pytest collects functions only
