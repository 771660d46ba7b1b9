"""Rows of the table and the test that judges them, where the search would cite a lesser one."""

from __future__ import annotations

from typing import Final

_BY_TEST: Final[dict[str, dict[str, str]]] = {
    "celery/test_auth.py": {
        "test_the_real_celery_and_we_exchange_signed_messages": "App.: setup_security; "
        "umbel.security: setup_security; setting: security_certificate security_cert_store "
        "security_key",
        "test_an_unsigned_message_does_not_run": "setting: accept_content",
    },
    "celery/test_results.py": {
        "test_an_app_writes_and_reads_as_its_settings_say": "setting: result_serializer "
        "result_compression",
    },
    "cli/test_app_lookup.py": {
        "test_the_app_that_pyproject_names": "umbel: -A/--app",
    },
    "cli/test_beat.py": {
        "test_any_number_of_workers_may_be_schedulers": "umbel worker: -B/--beat",
        "test_beat_sends_what_is_due_until_it_is_told_to_stop": "umbel: beat",
        "test_signals_tell_that_a_scheduler_runs": "umbel.signals: beat_init beat_embedded_init",
        "test_the_state_in_a_file_of_its_own": "umbel worker: -s/--schedule-filename/--schedule",
    },
    "cli/test_call_and_result.py": {
        "test_results_of_a_worker": "umbel: call result; umbel call: name; umbel result: task_id",
    },
    "cli/test_celery3_settings.py": {
        "test_each_setting_has_its_effect_or_one_line_that_says_why_not": "setting: "
        "worker_concurrency timezone",
    },
    "cli/test_compat.py": {
        "test_a_task_whose_process_dies_is_not_run_again": "setting: task_acks_late",
    },
    "cli/test_logging.py": {
        "test_the_lines_that_people_look_for": "umbel worker: -l/--loglevel --logfile/-f",
        "test_a_tasks_own_lines_name_it": "umbel.utils.log: get_task_logger; "
        "umbel.app.log: TaskFormatter",
    },
    "cli/test_worker.py": {
        "test_first_lines_and_a_warm_end": "umbel: worker",
        "test_limits_and_recycling_reach_the_worker": "umbel worker: --time-limit",
    },
    "cli/test_worker_options.py": {
        "test_detached": "umbel worker: -D/--detach",
    },
    "faults/test_delivery.py": {
        "test_unknown_task_runs_when_a_worker_knows_it": "App.: send_task",
    },
    "faults/test_limits.py": {
        "test_the_settings_limit_every_task": "setting: task_soft_time_limit task_time_limit; "
        "umbel.exceptions: SoftTimeLimitExceeded TimeLimitExceeded",
        "test_hard_limit_stops": "Task.: time_limit",
        "test_soft_limit_stops": "Task.: soft_time_limit",
    },
    "faults/test_shutdown.py": {
        "test_children_are_replaced_after_so_many_tasks": "setting: worker_max_tasks_per_child",
    },
    "pools/test_telling.py": {
        "test_a_hard_limit_that_is_no_end_is_as_a_death": "Task.: acks_on_timeout",
        "test_a_death_is_an_end_where_the_task_says_so": "Task.: reject_on_worker_lost; "
        "umbel.exceptions: WorkerLostError",
        "test_a_death_is_a_retry_where_the_task_says_so": "Task.: retry_on_worker_lost",
    },
    "unit/test_apps.py": {
        "test_it_knows_how_it_was_made": "umbel (module): Celery; umbel.app: Celery; "
        "App(): set_as_current",
        "test_its_time_is_in_its_zone": "App.: timezone",
        "test_it_starts_the_command_line": "App.: start worker_main",
    },
    "unit/test_beat.py": {
        "test_a_declared_entry_is_fired_when_it_is_due": "setting: beat_schedule",
        "test_add_periodic_task": "App.: add_periodic_task",
    },
    "unit/test_cli_parts.py": {
        "test_version_and_unknown_commands": "umbel: --version",
    },
    "unit/test_content.py": {
        "test_the_settings_name_the_default": "setting: task_serializer",
    },
    "unit/test_execution.py": {
        "test_a_return_is_told_once_and_in_order": "Task.: on_success",
        "test_a_failure_is_told_once_and_in_order": "Task.: on_failure",
        "test_a_retry_is_told_and_its_last_attempt_fails": "Task.: max_retries retry",
    },
    "unit/test_harness.py": {
        "test_run_works_it_off_in_this_thread": "Task.: delay",
    },
    "unit/test_models.py": {
        "test_a_call_does_what_it_does_in_celery": "@task: pydantic pydantic_strict",
    },
    "unit/test_publish.py": {
        "test_without_utc_a_naive_eta_means_the_apps_zone": "setting: enable_utc",
        "test_the_tasks_own_options_apply": "Task.: expires priority",
    },
    "unit/test_results.py": {
        "test_what_a_result_tells_in_each_state": "App.: AsyncResult; AsyncResult.: ready result "
        "state status successful",
        "test_a_set_looks_once_for_all": "App.: ResultSet",
        "test_an_id_that_was_revoked": "AsyncResult.: revoke",
        "test_exists_tells_an_unknown_id_from_one_that_waits": "AsyncResult.: forget",
        "test_get_returns_the_value_or_raises_the_error": "AsyncResult.: get wait",
        "test_members_come_and_go": "ResultSet.: add clear",
        "test_a_set_gives_its_values_in_order": "ResultSet.: get",
        "test_how_a_set_stands": "ResultSet.: ready successful",
    },
    "unit/test_results_kept.py": {
        "test_results_expire_without_a_janitor": "setting: result_expires",
        "test_extended_results_tell_of_the_call": "AsyncResult.: args name; setting: "
        "result_extended",
        "test_a_retry_tells_when_it_comes": "retry: throw eta countdown",
    },
    "unit/test_retry_options.py": {
        "test_queue_and_priority": "retry: options",
        "test_what_is_given_in_another_way_is_not_given_twice": "retry: args kwargs",
    },
    "unit/test_routing.py": {
        "test_a_route_names_a_queue": "setting: task_routes",
        "test_no_route_is_the_default_queue": "setting: task_default_queue",
    },
    "unit/test_sending_options.py": {
        "test_links_travel_as_signatures": "apply_async: link_error",
        "test_a_task_has_a_serializer_of_its_own": "Task.: serializer",
        "test_options_become_headers": "apply_async: shadow headers group_index retries "
        "stamped_headers",
    },
    "unit/test_schedules.py": {
        "test_what_a_field_names": "umbel.schedules: crontab",
        "test_intervals_are_values": "umbel.schedules: schedule",
    },
    "unit/test_settings.py": {
        "test_where_results_are_kept": "setting: result_backend",
        "test_conf_is_a_mapping_too": "App(): broker; app.conf.: table",
        "test_a_namespace_reads_its_own_names_only": "App(): namespace",
        "test_classes_instances_and_dotted_paths": "App.: config_from_object",
    },
    "unit/test_settings_at_work.py": {
        "test_results_in_other_content_are_not_read": "setting: result_accept_content",
        "test_calls_that_say_nothing_are_as_urgent_as_the_default": "setting: "
        "task_default_priority",
        "test_messages_say_how_they_are_to_be_kept": "setting: task_default_delivery_mode",
        "test_a_failure_is_kept_as_a_dead_letter": "Task.: acks_on_failure_or_timeout",
        "test_failures_and_starts_of_all_tasks_are_stored": "setting: "
        "task_store_errors_even_if_ignored task_track_started",
    },
    "unit/test_task_options.py": {
        "test_bind_makes_it_a_task_of_an_app_and_tells_it": "Task.: bind",
        "test_a_task_that_keeps_no_trail_counts_no_children": "Task.: trail",
    },
    "unit/test_tasks.py": {
        "test_a_base_class_gives_its_options_and_its_call": "App.: task",
        "test_a_class_is_a_task_with_the_options_it_states": "App.: register_task; Task.: name run",
    },
    "unit/test_shared.py": {
        "test_a_default_app_is_current_while_no_other_is": "App.: set_default",
        "test_it_is_sent_by_the_current_app_and_known_to_all": "App.: set_current",
    },
    "unit/test_vocabulary.py": {
        "test_states_compare_by_how_decided_they_are": "umbel.states: state",
    },
}


def _pins() -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for file, judged in _BY_TEST.items():
        for test, rows in judged.items():
            for part in rows.split("; "):
                group, _, names = part.partition(": ")
                found |= {(group, name): f"tests/{file}::{test}" for name in names.split()}
    return found


PINS: Final = _pins()
"""(group, name) and the test's file::function."""
