"""What users of ComfyUI workers complain about most, and the tests that hold what is owed to them.

`python tests/worker/complaints.py` writes the table into docs/complaints.md.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "complaints.md"
REPOSITORIES = {
    "worker-comfyui": "runpod-workers/worker-comfyui",
    "runpod-python": "runpod/runpod-python",
    "cog-comfyui": "replicate/cog-comfyui",
    "comfyui-api": "SaladTechnologies/comfyui-api",
}


@dataclass(frozen=True)
class Complaint:
    """One complaint: what is owed in a sentence, where it was made, which tests hold it."""

    owed: str
    threads: tuple[str, ...]
    """"REPOSITORY #NUMBER", the repository by a name of REPOSITORIES."""

    tests: tuple[str, ...]
    """"FILE::FUNCTION", the file from tests/ on."""


COMPLAINTS: dict[int, Complaint] = {
    1: Complaint(
        "Every file that any node makes is returned, videos and GIFs too, with its own type.",
        ("worker-comfyui #232",),
        (
            "worker/test_jobs.py::test_outputs_of_every_kind_are_returned_and_previews_are_not",
            "worker/test_stock.py::test_videos_stand_among_the_images_and_texts_do_not",
            "comfy/test_outputs.py::test_files_under_any_key_are_found_in_order_and_once",
            "e2e/test_both_ways.py::test_hello_video_is_the_same_by_every_way",
        ),
    ),
    2: Complaint(
        "A result that the platform would drop goes to the bucket, or is an error that says so.",
        ("worker-comfyui #129", "worker-comfyui #167", "runpod-python #309"),
        (
            "worker/test_jobs.py::test_a_result_too_large_is_an_error_that_says_so",
            "worker/test_jobs.py::test_what_fits_by_its_files_but_not_by_its_labels_is_such_an_error_too",
            "worker/test_jobs.py::test_the_platforms_own_limits_count_when_none_is_set",
            "worker/test_delivery.py::test_what_is_too_large_inline_goes_to_the_bucket_with_a_word",
            "worker/test_delivery.py::test_what_fits_by_its_files_but_not_by_its_labels_goes_there_too",
        ),
    ),
    3: Complaint(
        "An input may be a URL; it never leads into the worker's own network, has a limit, and is"
        " no web page.",
        ("worker-comfyui #131", "worker-comfyui #57"),
        (
            "worker/test_inputs.py::test_a_url_that_the_operator_allows",
            "worker/test_inputs.py::test_private_addresses_are_refused",
            "worker/test_inputs.py::test_a_redirect_to_a_private_address_is_refused",
            "worker/test_inputs.py::test_inputs_over_the_limit_are_refused_from_every_source",
            "comfy/test_fetch.py::test_the_address_that_was_checked_is_the_one_that_is_asked",
            "comfy/test_fetch.py::test_a_page_is_no_file_unless_a_page_is_wanted",
        ),
    ),
    4: Complaint(
        "A job tells how far it is, in percent of its whole graph.",
        ("worker-comfyui #36",),
        (
            "worker/test_jobs.py::test_progress_rises_and_ends_before_the_result",
            "comfy/test_tracker.py::test_the_fraction_never_falls_and_stays_between_0_and_1",
            "e2e/test_telling.py::test_a_job_tells_how_far_it_is_by_the_nodes_that_run",
        ),
    ),
    5: Complaint(
        "No progress is posted after the result, which would leave the job IN_PROGRESS for ever.",
        ("runpod-python #250",),
        (
            "worker/test_jobs.py::test_a_result_waits_for_the_progress_that_is_under_way",
            "worker/test_jobs.py::test_many_jobs_at_once_never_post_progress_after_their_result",
            "e2e/test_many_jobs.py::test_every_last_post_is_final_and_percentages_never_fall",
        ),
    ),
    6: Complaint(
        "A ComfyUI that is gone is started anew; one that cannot start costs the worker, with the"
        " end of its log.",
        ("worker-comfyui #186", "worker-comfyui #127"),
        (
            "worker/test_stops.py::test_a_crash_in_mid_job_is_told_and_the_next_job_starts_comfyui_anew",
            "worker/test_stops.py::test_a_comfyui_that_cannot_start_is_told_to_each_job",
            "worker/test_stops.py::test_a_comfyui_that_lives_and_does_not_answer_is_replaced",
            "worker/test_reruns.py::test_a_job_whose_comfyui_died_is_run_once_more",
            "worker/test_loop.py::test_of_two_jobs_only_the_last_answer_asks_for_a_new_worker",
            "faults/test_faults_of_starts.py::test_a_start_that_fails_is_survived",
        ),
    ),
    7: Complaint(
        "The operator names the objects, a job may bring its own bucket, and no key is logged.",
        ("worker-comfyui #49", "worker-comfyui #190", "worker-comfyui #123"),
        (
            "worker/test_delivery.py::test_the_key_template_is_the_operators",
            "worker/test_delivery.py::test_a_job_may_bring_its_own_bucket",
            "worker/test_delivery.py::test_a_successful_job_logs_neither_url_nor_secret",
            "worker/test_delivery.py::test_a_store_that_refuses_is_an_error_with_a_hint_and_no_secret",
        ),
    ),
    8: Complaint(
        "The first job need not be the slow one: a graph warms ComfyUI up, weights are read ahead.",
        ("worker-comfyui #90", "worker-comfyui #177"),
        (
            "worker/test_warmup.py::test_a_warm_up_runs_once_and_leaves_nothing",
            "worker/test_warmup.py::test_a_real_comfyui_is_warmed_up_by_a_template",
            "worker/test_warmup.py::test_what_is_prefetched_is_in_memory",
            "worker/test_lifecycle.py::test_weights_are_read_while_comfyui_starts_and_it_is_warm_before_a_job_is_taken",
        ),
    ),
    9: Complaint(
        "Models on a volume are found in all usual places; what is missing is named, by node.",
        ("worker-comfyui #48", "worker-comfyui #165"),
        (
            "comfy/models/test_roots.py::test_every_usual_place_on_a_volume_is_found",
            "comfy/models/test_roots.py::test_a_repository_that_runpod_cached_is_found_in_its_revision",
            "comfy/models/test_roots.py::test_the_real_comfyui_lists_what_is_on_the_volume",
            "comfy/models/test_roots.py::test_no_folder_of_the_real_comfyui_is_left_out",
            "worker/test_volumes.py::test_the_workers_own_comfyui_has_what_is_on_its_volume",
            "worker/test_volumes.py::test_what_a_job_lacks_is_named_by_its_node_with_what_is_on_the_volume",
            "comfy/preflight/test_check.py::test_a_missing_model_is_named_with_its_folder_and_the_ones_close_by",
            "worker/test_jobs.py::test_all_that_is_wrong_is_told_at_once_before_comfyui_is_asked",
        ),
    ),
    10: Complaint(
        "Node packs share ComfyUI's one environment, and one that cannot be imported is an error"
        " when it is added.",
        ("worker-comfyui #237", "worker-comfyui #37"),
        (
            "install/test_nodes.py::test_a_pack_is_added_with_what_it_requires_and_torch_stays",
            "install/test_nodes.py::test_a_pack_that_is_not_imported_is_an_error_that_names_it",
            "image/test_image.py::test_a_pack_that_cannot_be_imported_fails_the_build",
            "comfy/test_diagnose.py::test_a_pack_that_fails_to_import_is_named_with_what_it_lacks",
            "comfy/preflight/test_check.py::test_an_unknown_class_names_the_pack_that_has_it",
        ),
    ),
    11: Complaint(
        "A job may bring models by URL: from listed hosts, checked, whole or not at all, fetched"
        " once.",
        ("worker-comfyui #60", "cog-comfyui #208"),
        (
            "worker/test_brought_models.py::test_a_model_that_a_job_names_by_url_is_loaded_and_fetched_once",
            "worker/test_brought_models.py::test_a_model_with_another_checksum_never_reaches_comfyui",
            "worker/test_brought_models.py::test_a_host_that_the_operator_does_not_list_is_never_asked",
            "e2e/test_brought_by_url.py::test_a_checkpoint_and_a_lora_come_by_url_once_and_are_loaded",
            "comfy/models/test_jobs.py::test_jobs_at_the_same_time_download_a_file_once",
            "comfy/models/test_jobs.py::test_two_jobs_that_use_one_name_get_each_their_own",
        ),
    ),
    12: Complaint(
        "ComfyUI's version is pinned, and the installer of a later release brings it up to date.",
        ("worker-comfyui #183",),
        (
            "install/test_upgrade.py::test_the_new_pins_comfyui_takes_the_former_ones_place",
            "install/test_upgrade.py::test_a_new_torch_replaces_the_former_one",
            "install/test_choices.py::test_the_lock_pins_everything_it_requires",
        ),
    ),
    13: Complaint(
        "A GPU or driver that torch cannot use is named before a job runs, and the worker goes.",
        ("worker-comfyui #124",),
        (
            "worker/test_complaints.py::test_a_gpu_that_torch_cannot_use_is_named_before_any_job_runs",
            "comfy/test_diagnose.py::test_a_log_tells_its_cause_and_whether_another_start_is_vain",
            "comfy/test_diagnose.py::test_the_gpu_that_torch_does_not_know_is_named",
        ),
    ),
    14: Complaint(
        "The same request again has its files again, though ComfyUI has it in its cache.",
        ("cog-comfyui #79",),
        (
            "worker/test_cached.py::test_the_same_graph_again_has_its_files_and_what_costs_time_is_cached",
            "worker/test_jobs.py::test_the_same_attempt_again_is_not_answered_from_comfyuis_cache",
        ),
    ),
    15: Complaint(
        "A lost or silent websocket hangs no job: history decides, and one deadline ends all.",
        ("comfyui-api #186", "worker-comfyui #103"),
        (
            "comfy/test_session.py::test_a_drop_exactly_at_completion_delays_a_job_and_never_hangs_it",
            "comfy/test_session.py::test_a_server_that_takes_no_websocket_is_polled",
            "properties/test_session_orders.py::test_a_job_ends_with_the_truth_of_history_whatever_is_told",
            "worker/test_reruns.py::test_a_job_without_progress_is_ended_and_comfyui_replaced",
            "worker/test_stops.py::test_the_deadline_stops_the_run_and_the_next_one_goes",
        ),
    ),
}  # fmt: skip


def rows() -> list[str]:
    """The table as lines of Markdown."""
    found = ["| | What is owed | Complaint | Tests |", "|---|---|---|---|"]
    for number, one in COMPLAINTS.items():
        threads = ", ".join(f"[{name}]({address(name)})" for name in one.threads)
        tests = ", ".join(f"`{name}`" for name in one.tests)
        found.append(f"| {number} | {one.owed} | {threads} | {tests} |")
    return found


def address(thread: str) -> str:
    """The URL of "REPOSITORY #NUMBER"."""
    name, _, number = thread.partition(" #")
    return f"https://github.com/{REPOSITORIES[name]}/issues/{int(number)}"


@lru_cache
def functions(file: str) -> frozenset[str]:
    """The tests that a file of tests/ defines, read and not run."""
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def renewed(text: str) -> str:
    """Return the page with its table written anew."""
    begin, end = (f"<!-- {word} generated: complaints -->" for word in ("begin", "end"))
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    assert pattern.search(text), "docs/complaints.md has no place for its table"
    table = "\n".join(rows())
    return pattern.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
