"""The router's rules: `step(job, event) -> (job, effects)`. No I/O, no clock, no chance.

    states    what is known of a job and of each of its attempts
    events    what happened: answers to effects, the time, the user's wishes
    effects   what is to be done next, in this order, by whoever drives it
    rules     the questions that cost money when they are answered wrongly
    step      from one to the next
    resume    a job from what the books keep of it: how each begins, and goes on after a crash

An attempt is one backend's one chance:

    PLANNED --money held--> RESERVED --written down--> SENDING --accepted--> ACCEPTED
                                ^                         |                     |
                                +---- surely unsent ------+                  STOPPING
                                                          |                     |
              ends:  SKIPPED   REFUSED   FAILED   STOPPED   DONE   UNKNOWN

While one is alive (RESERVED to STOPPING, or anything after it whose end nobody confirmed) there is
no other. UNKNOWN has no end that anybody told: it counts as spent, and only the user's consent lets
another follow. A job ends once: done, unfetched, failed, cancelled, unknown or refused.
"""

from pennyreel.routing.machine.effects import (
    Ask,
    Effect,
    End,
    Fetch,
    Follow,
    LookUp,
    MarkCancelled,
    Reserve,
    Settle,
    Stop,
    Submit,
    Told,
    Wait,
    Write,
)
from pennyreel.routing.machine.events import (
    Accepted,
    Blocked,
    CancelAsked,
    Consented,
    Denied,
    Event,
    Failed,
    Fetched,
    FetchFailed,
    Gone,
    InLine,
    Lost,
    NotAccepted,
    OverBudget,
    Queued,
    Reserved,
    Started,
    Stopped,
    Succeeded,
    Woke,
)
from pennyreel.routing.machine.resume import resume
from pennyreel.routing.machine.states import (
    Attempt,
    AttemptRecord,
    Job,
    JobRecord,
    Option,
    Outcome,
    Rules,
    Stage,
    Trouble,
)
from pennyreel.routing.machine.step import step

__all__ = [
    "Accepted",
    "Ask",
    "Attempt",
    "AttemptRecord",
    "Blocked",
    "CancelAsked",
    "Consented",
    "Denied",
    "Effect",
    "End",
    "Event",
    "Failed",
    "Fetch",
    "FetchFailed",
    "Fetched",
    "Follow",
    "Gone",
    "InLine",
    "Job",
    "JobRecord",
    "LookUp",
    "Lost",
    "MarkCancelled",
    "NotAccepted",
    "Option",
    "Outcome",
    "OverBudget",
    "Queued",
    "Reserve",
    "Reserved",
    "Rules",
    "Settle",
    "Stage",
    "Started",
    "Stop",
    "Stopped",
    "Submit",
    "Succeeded",
    "Told",
    "Trouble",
    "Wait",
    "Woke",
    "Write",
    "resume",
    "step",
]
