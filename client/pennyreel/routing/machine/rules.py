"""The questions that cost money, or a job, when they are answered wrongly. Pure."""

from __future__ import annotations

from pennyreel.errors import Code
from pennyreel.routing.machine.states import Attempt, Job, Option, Rules, Stage, Trouble

_PAID = frozenset(
    {
        Code.RESULT_EXPIRED.value,
        Code.RESULT_TOO_LARGE.value,
        Code.RESULT_REFUSED.value,
        Code.STORAGE_FAILED.value,
        Code.ATTEMPT_CONFLICT.value,
    }
)
"""The job was made and its result is out of reach: making it again would be paid again."""

_THE_PLACE = frozenset(
    {
        Code.OUT_OF_MEMORY.value,
        Code.MISSING_MODEL.value,
        Code.MODEL_REFUSED.value,
        Code.NODE_REFUSED.value,
        Code.UNKNOWN_NODE.value,
        Code.CONTRACT_UNSUPPORTED.value,
        Code.ADDRESS_REFUSED.value,
        Code.INPUT_TOO_LARGE.value,
        Code.REQUEST_TOO_LARGE.value,
    }
)
"""Not worth repeating there, and no fault of the job's own: elsewhere it may go well."""


def next_option(job: Job) -> int | None:
    """Return the option to try next: the first that needs no asking, else the first left.

    Each backend is tried at most once, however often it is listed.
    """
    used = {job.options[a.n].key for a in job.attempts}
    left = [n for n, option in enumerate(job.options) if option.key not in used]
    return next((n for n in left if agreed(job, n)), left[0] if left else None)


def agreed(job: Job, n: int) -> bool:
    """Whether this option may be tried without asking."""
    return n in job.consents or (job.options[n].consented and affordable(job, n))


def affordable(job: Job, n: int) -> bool:
    """Whether the job stays within its limit with this option, whatever was tried before."""
    cost = job.options[n].reserve_microusd
    return not cost or job.limit is None or counted(job) + cost <= job.limit


def counted(job: Job) -> int:
    """Return what the job's attempts count as; of one that is alive, the worst."""
    return sum(job.options[a.n].reserve_microusd if a.alive else a.cost for a in job.attempts)


def moved(job: Job, n: int) -> bool:
    """Whether the job pays here because it could not be done elsewhere: others may, too."""
    option = job.options[n]
    elsewhere = option.stands_in or any(a.n != n for a in job.attempts)
    return elsewhere and option.reserve_microusd > 0


def busy(job: Job) -> bool:
    """Whether an attempt is alive: then no other may begin."""
    return any(a.alive for a in job.attempts)


def runs_by_itself(job: Job) -> bool:
    """Whether nobody has to be there: a backend has it, and it is neither made nor unwanted."""
    alive = [a.stage for a in job.alive()]
    return alive == [Stage.ACCEPTED] and not unwanted(job)


def only_waits(job: Job) -> bool:
    """Whether no call is under way: nothing comes but by waiting, or by another call."""
    return not any(a.awaits == "follow" for a in job.attempts)


def unforgiven(job: Job) -> bool:
    """Whether an attempt may be billed unseen, and the user did not agree to pay for another."""
    return unknown(job) > job.forgiven


def unknown(job: Job) -> int:
    """Count the attempts that may be billed unseen. What is free is not paid for twice."""
    lost = (a for a in job.attempts if a.stage is Stage.UNKNOWN)
    return sum(job.options[a.n].reserve_microusd > 0 for a in lost)


def unwanted(job: Job) -> bool:
    """Whether nothing more may be sent: the job is cancelled, or has its result."""
    return job.cancel or job.winner is not None


def sends_again(job: Job, attempt: Attempt, trouble: Trouble) -> bool:
    """Whether to send to the same backend again what it surely did not accept."""
    asked = trouble.retry_after_s or 0.0
    return trouble.retryable and attempt.sends < job.rules.sends and asked <= job.rules.most_s


def sets_aside(job: Job, attempt: Attempt, trouble: Trouble) -> bool:
    """Whether another option goes first, while this backend wants to be left alone.

    It is come back to where nothing else is left.
    """
    asked, other = trouble.retry_after_s or 0.0, next_option(job)
    if not sends_again(job, attempt, trouble) or attempt.blocks >= job.rules.blocks:
        return False
    ready = other is not None and agreed(job, other) and not unforgiven(job)
    return ready and asked > job.options[attempt.n].retry_s


def proves_nothing(attempt: Attempt) -> bool:
    """Whether a "not accepted" leaves open what became of an earlier call. A look-up's does not."""
    return attempt.unsure and attempt.awaits == "submit"


def looks_it_up(job: Job, attempt: Attempt) -> bool:
    """Whether an unanswered submit can be looked up (once more)."""
    return job.options[attempt.n].looks_up and attempt.looks < job.rules.looks


def sends_for_its_result(job: Job, attempt: Attempt) -> bool:
    """Whether to repeat an unanswered submit: only where a repeat is neither run nor billed."""
    return job.options[attempt.n].replays and attempt.sends < job.rules.sends and not unwanted(job)


def leaves_queue(job: Job, attempt: Attempt, at: float) -> bool:
    """Whether a queued attempt has waited too long, can be cancelled, and there is another."""
    option, other = job.options[attempt.n], next_option(job)
    if attempt.stage is not Stage.ACCEPTED or attempt.started or not attempt.queued:
        return False
    if not option.cancels:
        return False
    if other is None or not agreed(job, other) or unforgiven(job):
        return False
    return at >= (attempt.accepted_at or 0.0) + option.queue_s


def runs_too_long(job: Job, attempt: Attempt, at: float) -> bool:
    """Whether its time is over. The time in a queue does not count, where it is told of.

    What has no cancel is waited for as long as it is followed: giving up early saves nothing.
    """
    if not job.options[attempt.n].cancels:
        return False
    if attempt.stage is not Stage.ACCEPTED or (attempt.queued and not attempt.started):
        return False
    return at >= runs_until(job, attempt)


def runs_until(job: Job, attempt: Attempt) -> float:
    """Return when its time is over, counted from its start, else from its acceptance."""
    known = (t for t in (attempt.started_at, attempt.accepted_at) if t is not None)
    return next(known, 0.0) + job.options[attempt.n].deadline_s


def looks_again(job: Job, attempt: Attempt, trouble: Trouble) -> bool:
    """Whether a backend that fell silent is asked again; not one that has forgotten the job."""
    forgotten = trouble.code == Code.JOB_GONE.value
    return attempt.stage is Stage.ACCEPTED and not forgotten and attempt.looks < job.rules.looks


def asks_again_to_stop(job: Job, attempt: Attempt) -> bool:
    """Whether to repeat a cancel that was not confirmed."""
    return job.options[attempt.n].cancels and attempt.stops < job.rules.stops


def ended_there(confirmed: bool) -> bool:
    """Whether an attempt that was told to stop is over: only if the backend says so."""
    return confirmed


def moves_on(job: Job, attempt: Attempt, trouble: Trouble) -> bool:
    """Whether another backend may try what ran here and failed."""
    if trouble.code in _PAID:
        return False
    if trouble.retryable or trouble.code in _THE_PLACE:
        return True
    other = next_option(job)
    return other is not None and _engine(job.options[other]) != _engine(job.options[attempt.n])


def owed(job: Job, attempt: Attempt, billed_microusd: int | None) -> int | None:
    """Return what a stopped attempt cost; None = the reservation counts."""
    if billed_microusd is not None:
        return billed_microusd
    watched = attempt.queued and not attempt.resumed and not attempt.looks
    if not watched or attempt.started:
        return None
    # It was in the queue all the time. The worker that it woke is billed nevertheless.
    option = job.options[attempt.n]
    return min(option.start_microusd, option.reserve_microusd)


def pause_s(rules: Rules, tries: int, jitter: float, retry_after_s: float | None = None) -> float:
    """Return the seconds before the next try: full jitter, doubling, bounded.

    What the backend asked for is honoured, and comes on top: those whom it told the same do not
    come back at the same moment.
    """
    longest = min(rules.most_s, rules.base_s * 2.0 ** max(0, tries - 1))
    return (retry_after_s or 0.0) + jitter * longest


def _engine(option: Option) -> str:
    return option.engine or option.backend
