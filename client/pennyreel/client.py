"""The client: wires the rooms together, and decides nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self, Unpack

from pennyreel import config, spelling
from pennyreel.opened import Opened
from pennyreel.options import GenerateOptions, RouteOptions, order_of, terms_of, wish_of
from pennyreel.types import Handle, Health, JobEvent, RunResult

if TYPE_CHECKING:  # these bring requests along, which costs a tenth of a second
    from pennyreel.backends.base import Backend, Work
    from pennyreel.batch import OnEnd, Outcome, Wish
    from pennyreel.batch import OnEvent as OnEventOf
    from pennyreel.dispatch import Dispatch
    from pennyreel.handles import Handles
    from pennyreel.jobs import Job
    from pennyreel.routed import RoutedJob
    from pennyreel.routing.machine import Ask
    from pennyreel.routing.quote import Quote
    from pennyreel.watching import Hooks
    from pennyreel.workload import Workflow

OnEvent = Callable[[JobEvent], None]


class Client:
    """Makes prompts and workflows into files, where it is best by your terms.

    Thread-safe; also a context manager. Every job is booked in the ledger before it is sent.
    """

    def __init__(
        self, backend: str | None = None, *, hooks: Iterable[object] = (), **settings: Any
    ) -> None:
        """Read the settings; nothing is sent.

        Args:
            backend: comfyui, runpod, dev, or another package's; None chooses for each job.
            hooks: told of jobs, for logging and metrics; see `pennyreel.hooks`.
            settings: fields of `config.Settings` that win over environment and file.

        """
        self.settings = config.load(backend=backend, **settings)
        self._opened = Opened(self.settings)
        self._lock = threading.Lock()
        self._dispatch: Dispatch | None = None
        self._given_hooks = tuple(hooks)
        self._hooks: Hooks | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        workflow: Workflow,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RouteOptions],
    ) -> RunResult:
        """Run a workflow and wait for its files.

        Args:
            workflow: a file or URL in ComfyUI's API format, the graph itself, or a template's name.
            on_event: called in this thread with each event.
            options: see `RouteOptions`.

        Ctrl-C, or an exception out of `on_event`, cancels the job before it is passed on.

        Raises:
            BadRequest: the workflow is wrong; or `consent_required`: it would cost more than is
                allowed.
            Unavailable: no backend can do it now; the hint says what would change that.
            PennyreelError: it failed everywhere; `info.detail["attempts"]` has each attempt.

        """
        return self._wait(self.submit(workflow, **options), on_event)

    def subscribe(
        self, workflow: Workflow, on_event: OnEvent, **options: Unpack[RouteOptions]
    ) -> RunResult:
        """Do as `run`, with the events' receiver at the front."""
        return self._wait(self.submit(workflow, **options), on_event)

    def submit(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> RoutedJob:
        """Send a workflow or template and return at once; see `run`.

        Its `accepted()` waits until a backend has it, `detach()` leaves it there.
        """
        from pennyreel import workload  # noqa: PLC0415 - see above

        return self._routed(workload.build(order_of(workflow, options)), options)

    def generate(
        self, prompt: str, *, on_event: OnEvent | None = None, **options: Unpack[GenerateOptions]
    ) -> RunResult:
        """Make a video or an image from a prompt, where it is best by your terms.

        Args:
            prompt: what to show.
            on_event: called in this thread with each event.
            options: wishes (`kind`, `seconds`, `width`, …) and terms (`max_cost`, `policy`, …).

        Ctrl-C, or an exception out of `on_event`, cancels the job before it is passed on.

        Raises:
            BadRequest: a wish is wrong; or `consent_required`: it would cost more than is allowed.
            Unavailable: no backend can do it now; the hint says what would change that.
            PennyreelError: it failed everywhere; `info.detail["attempts"]` has each attempt.

        """
        return self._wait(self.start(prompt, **options), on_event)

    def generate_many(
        self,
        wishes: Iterable[Wish],
        *,
        concurrency: int = 4,
        on_event: OnEventOf | None = None,
        on_end: OnEnd | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Outcome]:
        """Make many, a few at a time; return each one's result or its error, in their order.

        Args:
            wishes: prompts, or {"prompt": …} with wishes and terms of its own.
            concurrency: how many run at once.
            on_event: called in this thread with a wish's place, from 0, and each event.
            on_end: the same, with its result or error, as each ends.
            options: of all of them; see `generate`.

        When a budget has nothing left, the rest is not sent. Ctrl-C, or an exception out of a
        callback, cancels what runs, and waits until that is confirmed, before it is passed on.

        Raises:
            BadRequest: wishes have no prompt, an unknown name, or a value that makes no sense, all
                of them at once; nothing was sent.

        """
        from pennyreel import batch  # noqa: PLC0415 - see above

        def starter(prompt: str, own: dict[str, Any]) -> Callable[[], RoutedJob]:
            return lambda: self.start(prompt, **own)

        spelled = batch.spelled(wishes, options, GenerateOptions.__annotations__)
        starts = [starter(prompt, own) for prompt, own in spelled]
        return batch.run(starts, concurrency=concurrency, on_event=on_event, on_end=on_end)

    def start(self, prompt: str, **options: Unpack[GenerateOptions]) -> RoutedJob:
        """Send a prompt and return at once; see `generate` and `submit`."""
        from pennyreel import prompts  # noqa: PLC0415 - see above

        return self._routed(prompts.make(wish_of(prompt, options)), options)

    def again(self, job_id: str, **options: Unpack[RouteOptions]) -> RoutedJob:
        """Send what a job asked for once more, as a new job, by its terms and those given here."""
        from pennyreel_contract import new_attempt_id  # noqa: PLC0415 - see above

        spelling.named(options, RouteOptions.__annotations__)
        order = self.dispatch.request(job_id)
        work = replace(order.work, attempt_id=new_attempt_id())
        given: dict[str, Any] = {"out_dir": order.out_dir, **order.terms, **options}
        return self._routed(work, given)

    def resume(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        out_dir: Path | str | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> RoutedJob:
        """Go on with a job whose client has ended, or has let it go; returns at once.

        Args:
            job_id: or its first letters.
            timeout_s: from now to the result; then it is cancelled.
            out_dir: where its files go; None = where they were to go.
            ask: as of `submit`.

        Raises:
            BadRequest: it has ended, somebody drives it (`busy` in its detail), or what it asked
                for is not on this machine.

        """
        from pennyreel_comfy.waiting import Deadline  # noqa: PLC0415 - see above

        where = None if out_dir is None else self._out_dir(out_dir)
        limit = Deadline(timeout_s)
        job = self.dispatch.resume(job_id, deadline=limit, out_dir=where, ask=ask)
        return self._watched(job)

    def quote(self, prompt: str, **options: Unpack[GenerateOptions]) -> Quote:
        """Return what a prompt would cost and take on every backend. Free; nothing is sent."""
        from pennyreel import prompts  # noqa: PLC0415 - see above

        return self.dispatch.quote(
            prompts.make(wish_of(prompt, options)), terms_of(options, self.settings)
        )

    def quote_workflow(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> Quote:
        """Return what a workflow would cost and take on every backend. Free; nothing is sent."""
        from pennyreel import workload  # noqa: PLC0415 - see above

        work = workload.build(order_of(workflow, options))
        return self.dispatch.quote(work, terms_of(options, self.settings))

    @property
    def dispatch(self) -> Dispatch:
        """The ledger's side of the client: jobs, decisions, resuming."""
        from pennyreel.dispatch import Dispatch  # noqa: PLC0415 - see above

        with self._lock:
            if self._dispatch is None:
                self._dispatch = Dispatch(self.settings, self._opened.get, self._opened.fresh)
            return self._dispatch

    def handle(
        self,
        handle: str | Handle,
        *,
        timeout_s: float | None = None,
        out_dir: Path | str | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> Job | RoutedJob:
        """Return the job that a handle, or a job's id, names, whoever sent it, on whatever day.

        One that is open goes on, and is booked, as by `resume`. Of one that has ended the files
        are fetched again, as long as its backend keeps them. One that is not in the ledger here is
        followed by its handle alone; a warning says so.

        Raises:
            BadRequest: there is no such job, or it has ended and made nothing.

        """
        from pennyreel.handles import Later  # noqa: PLC0415 - see above

        where = None if out_dir is None else self._out_dir(out_dir)
        return self._handles().job(handle, Later(timeout_s, where, ask))

    def cancel(self, handle: str | Handle) -> bool:
        """Stop a job by its handle or id, whoever drives it.

        Returns:
            Whether it is known that nothing of it runs any more.

        Raises:
            BadRequest: there is no such job.

        """
        return self._handles().cancel(handle)

    def backends(self) -> list[Health]:
        """Ask every configured backend how it is, at no cost. Never raises."""
        return self._opened.healths()

    def health(self, name: str) -> Health:
        """Ask one backend how it is, at no cost. Never raises."""
        return self._opened.health(name)

    def backend(self, name: str, target: str | None = None) -> Backend:
        """Return a backend by name, opened once."""
        return self._opened.get(name, target)

    def close(self) -> None:
        """Let connections go. Jobs go on; no server is stopped."""
        with self._lock:
            dispatch, self._dispatch = self._dispatch, None
            hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.close()  # before the ledger, which they ask
        if dispatch is not None:
            dispatch.close()
        self._opened.close()

    def _routed(self, work: Work, options: Mapping[str, Any]) -> RoutedJob:
        from pennyreel_comfy.waiting import Deadline  # noqa: PLC0415 - see above

        job = self.dispatch.send(
            work,
            terms_of(options, self.settings),
            out_dir=self._out_dir(options.get("out_dir")),
            deadline=Deadline(options.get("timeout_s")),
            ask=options.get("ask"),
            noted=options.get("noted"),
        )
        return self._watched(job)

    def _watched(self, job: RoutedJob) -> RoutedJob:
        """Have the hooks told of it."""
        from pennyreel.watching import Hooks  # noqa: PLC0415 - see above

        with self._lock:
            if self._hooks is None:
                self._hooks = Hooks(self._given_hooks)
            hooks = self._hooks
        hooks.watch(job, self.dispatch.ledger.job)
        return job

    def _handles(self) -> Handles:
        from pennyreel.handles import Handles  # noqa: PLC0415 - see above

        usual = self._out_dir(None)
        return Handles(self.dispatch, self._opened.get, self.resume, usual)

    @staticmethod
    def _wait(job: RoutedJob, on_event: OnEvent | None) -> RunResult:
        try:
            for event in job.events():
                if on_event is not None:
                    on_event(event)
            return job.result()
        except BaseException:
            if not job.done:
                job.cancel()
            raise

    def _out_dir(self, given: Path | str | None) -> Path:
        return Path(given).expanduser() if given is not None else self.settings.out_dir


def generate(
    prompt: str, *, on_event: OnEvent | None = None, **options: Unpack[GenerateOptions]
) -> RunResult:
    """Make a video or an image from a prompt, with a client of its own; see `Client.generate`."""
    with Client() as client:
        return client.generate(prompt, on_event=on_event, **options)
