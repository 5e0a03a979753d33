"""The client: wires the rooms together; decides nothing but which backend a job goes to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self, TypedDict, Unpack

from pennyreel import config
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.terms import Terms
from pennyreel.types import Handle, Health, JobEvent, RunResult

if TYPE_CHECKING:  # these bring requests along, which costs a tenth of a second
    from pennyreel.backends.base import Backend, Work
    from pennyreel.batch import OnEnd, Outcome, Wish
    from pennyreel.batch import OnEvent as OnEventOf
    from pennyreel.dispatch import Dispatch
    from pennyreel.jobs import Job
    from pennyreel.journal import Entry
    from pennyreel.routed import RoutedJob
    from pennyreel.routing.machine import Ask
    from pennyreel.routing.quote import Quote
    from pennyreel.sources import Given
    from pennyreel.watching import Attempts, Hooks
    from pennyreel.workload import Workflow
    from pennyreel_comfy.waiting import Deadline

OnEvent = Callable[[JobEvent], None]
_J = TypeVar("_J", "Job", "RoutedJob")

_STATES = {
    "done": "done",
    Code.CANCELLED.value: "cancelled",
    Code.TIMEOUT.value: "timeout",
    Code.UNKNOWN_OUTCOME.value: "unknown",
}
_WAYS = (
    "do one of these (pennyreel doctor shows what is missing):\n"
    "- here: pennyreel comfyui install, then pennyreel comfyui start\n"
    "- a ComfyUI you have: set PENNYREEL_COMFYUI_URL\n"
    "- RunPod: set RUNPOD_API_KEY and RUNPOD_ENDPOINT_ID\n"
    "- an emulated RunPod: pennyreel dev"
)


class JobOptions(TypedDict, total=False):
    """What `run`, `submit` and `subscribe` take besides the workflow. All may be left out."""

    set: Mapping[str, Any]
    """Inputs of nodes by "NODE.INPUT"; NODE is an id, or a title that only one node has."""
    set_text: Mapping[str, str]
    """The same from text, as typed; the old value tells the type."""
    inputs: Mapping[str, Given]
    """Files by "NODE.INPUT", or NODE where it has one file input, or an image parameter's name:
    a path, an http(s) or s3 URL, bytes, or (name, bytes)."""
    parameters: Mapping[str, Any]
    """Of a template."""
    parameters_text: Mapping[str, str]
    """The same from text, as typed."""
    seed: int | None
    """For every seed in the graph."""
    timeout_s: float | None
    """From now to the result, queue included; then the job is cancelled and JobTimeout raised."""
    out_dir: Path | str | None
    """Where the files go; made when it is missing."""
    nodes: Collection[str] | None
    """Only these nodes' outputs."""
    kinds: Collection[str] | None
    """Only these kinds: image, video, audio, model3d, text, file."""
    temp: bool
    """Also the files of preview nodes."""
    preview: bool
    """Send small pictures with the progress."""
    metadata: Mapping[str, Any] | None
    """Comes back in the result."""


class RouteOptions(JobOptions, Terms, total=False):
    """What `route` takes: a job's options, and what it may cost and where it may go."""

    ask: Callable[[Ask], bool] | None
    """Asked whether a backend may be tried that needs a yes. Without it, the answer is no."""
    noted: Callable[[str], None] | None
    """Told the job's id when its request is on this disk, before anything is sent or booked."""


class GenerateOptions(Terms, total=False):
    """What `generate` takes besides the prompt: wishes, and what it may cost and where."""

    kind: str
    """video (the default) or image."""
    template: str | None
    """Run by this template's graph, on a ComfyUI."""
    negative_prompt: str | None
    width: int | None
    height: int | None
    seconds: float | None
    frames: int | None
    fps: float | None
    format: str | None
    """The file's ending: mp4, gif, png, …"""
    image: Given | None
    """What the video begins with."""
    lora: str | None
    audio: bool
    seed: int | None
    timeout_s: float | None
    """From now to the result; then the job is cancelled and JobTimeout raised."""
    out_dir: Path | str | None
    ask: Callable[[Ask], bool] | None
    """Asked whether a backend may be tried that needs a yes. Without it, the answer is no."""
    noted: Callable[[str], None] | None
    """Told the job's id when its request is on this disk, before anything is sent or booked."""


@dataclass(frozen=True)
class Choice:
    """The backend that a job goes to, and why."""

    name: str
    target: str | None
    why: str
    caution: str = ""
    """Set where a person may have expected another one."""


class Client:
    """Runs workflows on the configured backend. Thread-safe; also a context manager."""

    def __init__(
        self, backend: str | None = None, *, hooks: Iterable[object] = (), **settings: Any
    ) -> None:
        """Read the settings; nothing is sent.

        Args:
            backend: comfyui, runpod, dev, or another package's; None chooses at each job.
            hooks: told of jobs, for logging and metrics; see `pennyreel.hooks`.
            settings: fields of `config.Settings` that win over environment and file.

        """
        self.settings = config.load(backend=backend, **settings)
        self._open: dict[tuple[str, str | None], Backend] = {}
        self._lock = threading.Lock()
        self._dispatch: Dispatch | None = None
        self._given_hooks = tuple(hooks)
        self._hooks: Hooks | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, workflow: Workflow, *, on_event: OnEvent | None = None, **options: Unpack[JobOptions]
    ) -> RunResult:
        """Run a workflow and wait for its files.

        Args:
            workflow: a file or URL in ComfyUI's API format, the graph itself, or a template's name.
            on_event: called in this thread with each event.
            options: see `JobOptions`.

        Ctrl-C, or an exception out of `on_event`, cancels the job before it is passed on.

        Raises:
            PennyreelError: its class says what to do next; see pennyreel.errors.

        """
        return self.subscribe(workflow, on_event or (lambda _: None), **options)

    def subscribe(
        self, workflow: Workflow, on_event: OnEvent, **options: Unpack[JobOptions]
    ) -> RunResult:
        """Do as `run`, with the events' receiver at the front."""
        job = self.submit(workflow, **options)
        try:
            for event in job.events():
                on_event(event)
            return job.result()
        except BaseException:
            if not job.done:
                job.cancel()
            raise

    def submit(self, workflow: Workflow, **options: Unpack[JobOptions]) -> Job:
        """Send a workflow and return at once; see `run` for the arguments.

        The job's intent is on this disk before anything is sent, its handle right after.
        """
        from pennyreel import workload  # noqa: PLC0415 - see above
        from pennyreel.jobs import Job  # noqa: PLC0415
        from pennyreel.types import Warned  # noqa: PLC0415
        from pennyreel_comfy.waiting import Deadline  # noqa: PLC0415

        began = time.monotonic()
        deadline = Deadline(options.get("timeout_s"))
        work = workload.build(_order(workflow, options))
        choice = self.choose()
        backend = self.backend(choice.name, choice.target)
        entry, handle, unwritten = self._send(backend, work, deadline)
        job = Job(
            entry.job_id,
            handle,
            backend,
            out_dir=self._out_dir(options.get("out_dir")),
            deadline=deadline,
            on_end=lambda outcome: self._ended(entry, outcome),
            began=began,
        )
        if choice.caution:
            job.note(Warned(choice.caution))
        if unwritten:
            job.note(Warned(unwritten))
        return self._watched(job)

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
            BadRequest: a wish has no prompt or an unknown name; nothing was sent.

        """
        from pennyreel import batch  # noqa: PLC0415 - see above

        def starter(prompt: str, own: dict[str, Any]) -> Callable[[], RoutedJob]:
            return lambda: self.start(prompt, **own)

        spelled = batch.spelled(wishes, options, GenerateOptions.__annotations__)
        starts = [starter(prompt, own) for prompt, own in spelled]
        return batch.run(starts, concurrency=concurrency, on_event=on_event, on_end=on_end)

    def start(self, prompt: str, **options: Unpack[GenerateOptions]) -> RoutedJob:
        """Send a prompt by the router and return at once; see `generate`."""
        from pennyreel import prompts  # noqa: PLC0415 - see above

        work = prompts.make(_wish(prompts.Ask, prompt, options))
        return self._routed(work, options)

    def route(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> RoutedJob:
        """Send a workflow or template by the router and return at once; see `run`."""
        from pennyreel import workload  # noqa: PLC0415 - see above

        return self._routed(workload.build(_order(workflow, options)), options)

    def again(self, job_id: str, **options: Unpack[RouteOptions]) -> RoutedJob:
        """Send what a job asked for once more, as a new job, by its terms and those given here."""
        from pennyreel_contract import new_attempt_id  # noqa: PLC0415 - see above

        order = self.dispatch.request(job_id)
        work = replace(order.work, attempt_id=new_attempt_id())
        given: dict[str, Any] = {"out_dir": order.out_dir, **order.terms, **options}
        return self._routed(work, given)

    def quote(self, prompt: str, **options: Unpack[GenerateOptions]) -> Quote:
        """Return what a prompt would cost and take on every backend. Free; nothing is sent."""
        from pennyreel import prompts  # noqa: PLC0415 - see above

        work = prompts.make(_wish(prompts.Ask, prompt, options))
        return self.dispatch.quote(work, _terms(options))

    def quote_workflow(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> Quote:
        """Return what a workflow would cost and take on every backend. Free; nothing is sent."""
        from pennyreel import workload  # noqa: PLC0415 - see above

        return self.dispatch.quote(workload.build(_order(workflow, options)), _terms(options))

    @property
    def dispatch(self) -> Dispatch:
        """The ledger's side of the client: jobs, decisions, resuming."""
        from pennyreel.dispatch import Dispatch  # noqa: PLC0415 - see above

        with self._lock:
            if self._dispatch is None:
                self._dispatch = Dispatch(self.settings, self.backend, self._fresh)
            return self._dispatch

    def handle(
        self,
        handle: str | Handle,
        *,
        timeout_s: float | None = None,
        out_dir: Path | str | None = None,
    ) -> Job:
        """Return the job that a handle names, whoever submitted it, on whatever day."""
        from pennyreel.jobs import Job  # noqa: PLC0415 - see above
        from pennyreel.journal import Journal  # noqa: PLC0415
        from pennyreel_comfy.waiting import Deadline  # noqa: PLC0415

        found = Handle.parse(handle) if isinstance(handle, str) else handle
        entry = Journal(self.settings.home / "jobs").get(found.attempt_id)
        return Job(
            entry.job_id if entry else found.attempt_id,
            found,
            self.backend(found.backend, found.target),
            out_dir=self._out_dir(out_dir),
            deadline=Deadline(timeout_s),
            on_end=lambda outcome: self._ended(entry, outcome),
        )

    def backends(self) -> list[Health]:
        """Ask every configured backend how it is, at no cost. Never raises."""
        from pennyreel.backends import registry  # noqa: PLC0415 - see above

        found = [self.health(name) for name in registry.names()]
        local = self._installed_url()
        if local and local != self.settings.comfyui_url:
            found.append(self.backend("comfyui", local).health())
        return found

    def health(self, name: str) -> Health:
        """Ask one backend how it is, at no cost. Never raises."""
        try:
            return self.backend(name).health()
        except PennyreelError as problem:
            return Health(name, False, str(problem), problem.hint)

    def backend(self, name: str, target: str | None = None) -> Backend:
        """Return a backend by name, opened once."""
        from pennyreel.backends import registry  # noqa: PLC0415 - see above

        with self._lock:
            if name == "dev":  # its address changes with each `pennyreel dev`
                self._close(self._open.pop((name, target), None))
            if (name, target) not in self._open:
                self._open[name, target] = registry.open_backend(name, self.settings, target)
            return self._open[name, target]

    def choose(self) -> Choice:
        """Say where a workflow goes that is submitted without the router; see `quote` for others.

        The configured backend; else a ComfyUI that answers at the configured address; the
        installed one, if it runs; RunPod, if key and endpoint are set; a running dev stack.

        Raises:
            SetupNeeded: none of them is there.
            BadRequest: the configured one does not exist.

        """
        from pennyreel.backends import registry  # noqa: PLC0415 - see above

        settings = self.settings
        if settings.backend == "comfyui":
            return self._choose_comfyui()
        if settings.backend is not None:
            registry.check(settings.backend)
            return Choice(settings.backend, None, "it is configured")
        if self.backend("comfyui").health().reachable:
            return Choice("comfyui", None, f"a ComfyUI answers at {settings.comfyui_url}")
        local = self._installed_url()
        if local and self.backend("comfyui", local).health().reachable:
            return Choice("comfyui", local, f"the installed ComfyUI runs at {local}")
        named = settings.comfyui_url != config.COMFYUI_URL
        silent = f"no ComfyUI answers at {settings.comfyui_url}" if named else ""
        if settings.runpod_api_key and settings.runpod_endpoint:
            why = f"RunPod endpoint {settings.runpod_endpoint} is configured"
            return Choice("runpod", None, why, f"{silent}; using RunPod" if silent else "")
        if config.dev_stack(settings.home) is not None and self.backend("dev").health().reachable:
            return Choice("dev", None, "a dev stack runs", silent)
        raise error(
            Code.NOT_CONFIGURED, "there is nothing here that could run a workflow yet", hint=_WAYS
        )

    def close(self) -> None:
        """Let connections go. Jobs go on; no server is stopped."""
        with self._lock:
            opened, self._open = self._open, {}
            dispatch, self._dispatch = self._dispatch, None
            hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.close()  # before the ledger, which they ask
        if dispatch is not None:
            dispatch.close()
        for backend in opened.values():
            self._close(backend)

    def _routed(self, work: Work, options: Mapping[str, Any]) -> RoutedJob:
        from pennyreel_comfy.waiting import Deadline  # noqa: PLC0415 - see above

        job = self.dispatch.send(
            work,
            _terms(options),
            out_dir=self._out_dir(options.get("out_dir")),
            deadline=Deadline(options.get("timeout_s")),
            ask=options.get("ask"),
            noted=options.get("noted"),
        )
        ledger = self.dispatch.ledger
        return self._watched(job, lambda job_id: ledger.job(job_id).attempts)

    def _watched(self, job: _J, attempts: Attempts | None = None) -> _J:
        """Have the hooks told of it."""
        from pennyreel.watching import Hooks  # noqa: PLC0415 - see above

        with self._lock:
            if self._hooks is None:
                self._hooks = Hooks(self._given_hooks)
            hooks = self._hooks
        hooks.watch(job, attempts)
        return job

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

    def _fresh(self, name: str, target: str | None) -> Backend:
        from pennyreel.backends import registry  # noqa: PLC0415 - see above

        return registry.open_backend(name, self.settings, target)

    def _choose_comfyui(self) -> Choice:
        """The configured server, or the installed one where only that runs."""
        local = self._installed_url()
        if local and not self.backend("comfyui").health().reachable:
            return Choice("comfyui", local, f"the installed ComfyUI runs at {local}")
        return Choice("comfyui", None, "it is configured")

    def _send(self, backend: Backend, work: Work, deadline: Deadline) -> tuple[Entry, Handle, str]:
        """Record, send, record; the text says what could not be recorded of a job that was sent."""
        from pennyreel.journal import Journal  # noqa: PLC0415 - see above

        journal = Journal(self.settings.home / "jobs")
        # A job is named after its first attempt, so that a handle finds its entry.
        entry = journal.intend(
            work.attempt_id,
            attempt_id=work.attempt_id,
            backend=backend.name,
            target=backend.target,
            request_sha256=work.digest(),
        )
        try:
            handle = backend.submit(work, deadline)
        except PennyreelError as problem:
            state = "unknown" if problem.code == Code.UNKNOWN_OUTCOME.value else "refused"
            told = problem.info.detail.get("handle")
            with suppress(OSError):  # what went wrong first is what counts
                journal.update(
                    entry,
                    state=state,
                    code=problem.code,
                    handle=told if isinstance(told, str) else None,
                )
            raise
        except BaseException:
            with suppress(OSError):
                journal.update(entry, state="unknown")
            raise
        try:
            return journal.update(entry, state="submitted", handle=str(handle)), handle, ""
        except OSError as problem:
            # The job is out and will be paid for: it must not look as if it were not.
            sent = replace(entry, state="submitted", handle=str(handle))
            lost = f"the job was sent, but cannot be recorded in {journal.folder}"
            return sent, handle, f"{lost} ({problem.strerror}): keep its handle {handle}"

    def _ended(self, entry: Entry | None, outcome: str) -> None:
        from pennyreel.journal import Journal  # noqa: PLC0415 - see above

        if entry is not None:
            state = _STATES.get(outcome, "failed")
            code = None if outcome == "done" else outcome
            Journal(self.settings.home / "jobs").update(entry, state=state, code=code)

    def _installed_url(self) -> str | None:
        from pennyreel import localcomfy  # noqa: PLC0415 - see above

        server = localcomfy.running(self.settings.comfyui_home)
        return server.url if server else None

    def _out_dir(self, given: Path | str | None) -> Path:
        return Path(given).expanduser() if given is not None else self.settings.out_dir

    @staticmethod
    def _close(backend: Backend | None) -> None:
        if backend is not None:
            backend.close()


def generate(
    prompt: str, *, on_event: OnEvent | None = None, **options: Unpack[GenerateOptions]
) -> RunResult:
    """Make a video or an image from a prompt, with a client of its own; see `Client.generate`."""
    with Client() as client:
        return client.generate(prompt, on_event=on_event, **options)


def _order(workflow: Workflow, options: JobOptions) -> Any:
    from pennyreel.workload import Order  # noqa: PLC0415 - see above

    return Order(
        workflow=workflow,
        set=options.get("set", {}),
        set_text=options.get("set_text", {}),
        inputs=options.get("inputs", {}),
        parameters=options.get("parameters", {}),
        parameters_text=options.get("parameters_text", {}),
        seed=options.get("seed"),
        timeout_s=options.get("timeout_s"),
        nodes=options.get("nodes"),
        kinds=options.get("kinds"),
        temp=options.get("temp", False),
        preview=options.get("preview", False),
        metadata=options.get("metadata"),
    )


def _terms(options: Mapping[str, Any]) -> Any:
    return {name: options[name] for name in Terms.__annotations__ if name in options}


def _wish(ask: type[Any], prompt: str, options: Mapping[str, Any]) -> Any:
    known = ask.__dataclass_fields__
    return ask(prompt, **{name: value for name, value in options.items() if name in known})
