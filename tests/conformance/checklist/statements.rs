//! The statements, in the order of their numbers.

/// How a statement is met.
pub(super) enum Proof {
    /// These tests show that it is.
    Tests(&'static [&'static str]),
    /// These tests show a part; the rest is otherwise on purpose.
    Partly(&'static [&'static str], &'static str),
    /// It is not, on purpose.
    Not(&'static str),
}

use Proof::{Not, Partly, Tests};

const TYPED: &str =
    "outputs are typed: a handler returns a `Result` and calls `request_refresh`, and no key of its output is magic";

/// Each statement in short, with its proof.
pub(super) const CHECKLIST: &[(u16, &str, Proof)] = &[
    // Environment and URLs.
    (
        1,
        "without RUNPOD_WEBHOOK_GET_JOB one local job is run, and nothing is sent",
        Tests(&["without_a_queue_one_local_job_is_run", "without_a_queue_there_is_no_network"]),
    ),
    (2, "with it, the production loop starts", Tests(&["a_job_travels_from_submission_to_its_output"])),
    (
        3,
        "$ID is the worker in job-take, the job in job-done and job-stream",
        Tests(&["placeholders_are_filled_in_every_template", "posts_use_the_route_headers_and_body_of_the_protocol"]),
    ),
    (
        4,
        "$RUNPOD_POD_ID is the worker in every template",
        Tests(&["placeholders_are_filled_in_every_template", "pings_start_at_once_and_list_what_is_held"]),
    ),
    (
        5,
        "a template without ? gets its first parameter with ?",
        Tests(&[
            "parameters_follow_a_question_mark_or_an_ampersand",
            "takes_use_the_route_and_parameters_of_the_protocol",
        ]),
    ),
    (
        6,
        "the query of a template is sent first and unchanged",
        Tests(&["the_rest_of_a_template_is_sent_as_it_is", "takes_use_the_route_and_parameters_of_the_protocol"]),
    ),
    (7, "nothing else of a template is rebuilt", Tests(&["the_rest_of_a_template_is_sent_as_it_is"])),
    (
        8,
        "without RUNPOD_POD_ID the worker polls with a random id and sends no heartbeat",
        Tests(&["missing_variables_of_the_platform_are_warned_about", "without_a_queue_there_is_no_network"]),
    ),
    (
        9,
        "RUNPOD_PING_INTERVAL is milliseconds, 10000 by default; small values do no harm",
        Tests(&["missing_variables_of_the_platform_are_warned_about"]),
    ),
    (
        10,
        "Authorization is the raw key on every request",
        Tests(&[
            "takes_use_the_route_and_parameters_of_the_protocol",
            "posts_use_the_route_headers_and_body_of_the_protocol",
            "pings_start_at_once_and_list_what_is_held",
        ]),
    ),
    (
        11,
        "log levels in any case, WARNING and numbers included",
        Tests(&["levels_have_many_spellings", "the_platforms_names_for_settings_are_known"]),
    ),
    // Taking jobs.
    (
        18,
        "job_in_progress says whether a job is held",
        Tests(&["takes_use_the_route_and_parameters_of_the_protocol", "every_form_of_a_job_is_accepted"]),
    ),
    (
        19,
        "the job is exactly the object that came",
        Tests(&["a_job_passes_through_byte_for_byte", "every_form_of_a_job_is_accepted"]),
    ),
    (
        20,
        "no answer to a take ends the process",
        Tests(&[
            "every_answer_to_a_take_is_understood",
            "answers_that_cannot_be_understood_slow_the_poll_down",
            "errors_slow_the_poll_down_until_the_next_good_answer",
        ]),
    ),
    (
        21,
        "after 429 the next take is 5 s later at least",
        Tests(&["a_429_pauses_the_poll_for_five_seconds_and_is_shown", "a_429_pauses_for_five_seconds_or_longer"]),
    ),
    (
        22,
        "after connection errors and 5xx the worker backs off",
        Tests(&[
            "a_refused_connection_is_tried_at_most_once_a_second_and_survived",
            "errors_slow_the_poll_down_until_the_next_good_answer",
        ]),
    ),
    (
        23,
        "after 204 or 400 the next take follows at once",
        Tests(&["an_answer_without_a_job_is_followed_by_the_next_poll_at_once"]),
    ),
    (
        24,
        "a take is given up after 90 s and repeated",
        Tests(&["a_poll_without_an_answer_is_repeated_after_90_seconds"]),
    ),
    (
        25,
        "parameters of the media type are accepted",
        Tests(&["every_answer_to_a_take_is_understood", "every_form_of_a_job_is_accepted"]),
    ),
    (26, "arrays and objects are accepted on both routes", Tests(&["arrays_and_objects_are_both_taken"])),
    (
        27,
        "[], null and scalars are no job",
        Tests(&["no_job_is_no_error", "an_answer_without_a_job_is_followed_by_the_next_poll_at_once"]),
    ),
    (
        28,
        "what has no id starts nothing, in an array neither",
        Tests(&[
            "replies_without_a_usable_id_are_errors",
            "one_bad_element_does_not_hurt_the_others",
            "a_broken_answer_fails_the_jobs_it_names_instead_of_losing_them",
        ]),
    ),
    (
        29,
        "a job without input runs with an empty object",
        Tests(&[
            "an_input_that_is_null_or_missing_reaches_the_handler",
            "missing_and_null_inputs_count_as_an_empty_object",
        ]),
    ),
    (30, "so does one whose input is null", Tests(&["an_input_that_is_null_or_missing_reaches_the_handler"])),
    (
        31,
        "with more than one free place the batch route asks for as many",
        Tests(&["several_free_slots_use_the_batch_route", "polls_for_exactly_the_slots_that_are_ready"]),
    ),
    (
        32,
        "batch_size comes before job_in_progress",
        Tests(&["several_free_slots_use_the_batch_route", "takes_use_the_route_and_parameters_of_the_protocol"]),
    ),
    (
        33,
        "no more jobs are asked for than there are places",
        Tests(&["polls_for_exactly_the_slots_that_are_ready", "invariants_hold_and_the_worker_stops"]),
    ),
    (
        34,
        "a callback changes the concurrency",
        Not("places are models in memory, of which a handler cannot have more or fewer by a call: `--slots` is fixed"),
    ),
    (35, "a job that is held is not started again", Tests(&["a_job_that_comes_twice_is_run_once"])),
    (
        36,
        "gzip, chunked replies and 307 are handled",
        Tests(&[
            "every_answer_to_a_take_is_understood",
            "redirects_that_keep_the_method_are_followed_and_no_others",
            "a_redirect_is_followed_with_the_key_on_the_same_host",
        ]),
    ),
    (
        37,
        "the next job is asked for as soon as a place is free",
        Tests(&["polls_for_exactly_the_slots_that_are_ready", "the_slot_is_free_before_the_result_is_delivered"]),
    ),
    // Stop channel.
    (
        50,
        "the stop URL is that of job-take with its route replaced, and nothing added",
        Tests(&[
            "every_answer_on_the_stop_channel_is_understood",
            "answers_on_the_stop_channel_that_stop_nothing_are_followed_by_a_pause",
        ]),
    ),
    (
        51,
        "it is polled beside job-take and while jobs run",
        Tests(&["ids_on_the_stop_channel_are_honored_among_other_values", "a_stop_that_overtakes_its_job_counts"]),
    ),
    (
        52,
        "the listed jobs are stopped, others ignored",
        Tests(&["ids_on_the_stop_channel_are_honored_among_other_values"]),
    ),
    (53, "nothing is posted for a stopped job", Tests(&["nothing_is_posted_for_a_stopped_job"])),
    (
        54,
        "404 there is harmless",
        Tests(&[
            "no_answer_is_asked_for_more_than_once_a_second",
            "answers_on_the_stop_channel_that_stop_nothing_are_followed_by_a_pause",
        ]),
    ),
    (
        55,
        "so is nonsense",
        Tests(&[
            "stop_lists_are_read_and_everything_else_stops_nothing",
            "answers_on_the_stop_channel_that_stop_nothing_are_followed_by_a_pause",
        ]),
    ),
    (
        56,
        "a stop reaches a job that blocks, and others go on",
        Tests(&[
            "a_cancelled_job_stops_and_the_next_one_runs",
            "a_cancelled_job_that_ignores_it_is_killed",
            "a_stopped_job_that_ignores_it_costs_its_process_after_its_neighbours_had_their_time",
        ]),
    ),
    // Results.
    (
        61,
        "job-done is a POST that says whether the handler streams",
        Tests(&[
            "posts_use_the_route_headers_and_body_of_the_protocol",
            "chunks_come_one_by_one_and_before_the_result",
        ]),
    ),
    (
        62,
        "its body is UTF-8 JSON, declared as a form",
        Tests(&["posts_use_the_route_headers_and_body_of_the_protocol"]),
    ),
    (
        63,
        "X-Request-ID is the job of this very request",
        Tests(&["posts_use_the_route_headers_and_body_of_the_protocol", "a_result_is_repeated_until_it_is_accepted"]),
    ),
    (64, "every value becomes {\"output\": value}", Tests(&["outputs_are_wrapped_unparsed"])),
    (65, "an object with a truthy error is a failure", Not(TYPED)),
    (66, "one with a falsy error loses that key", Not(TYPED)),
    (67, "a truthy refresh_worker becomes stopPod", Not(TYPED)),
    (
        68,
        "refresh_worker in the configuration adds stopPod and ends the worker",
        Tests(&["refresh_worker_ends_the_worker_after_one_job", "refresh_worker_ends_the_worker_after_its_first_job"]),
    ),
    (
        69,
        "an error has six fields in a text",
        Tests(&["errors_carry_six_strings_in_a_string", "errors_of_every_kind_fail_their_job_and_keep_the_process"]),
    ),
    (
        70,
        "a panic is an error and does not end the process",
        Tests(&["a_panic_fails_its_job_with_message_and_backtrace_and_keeps_the_process"]),
    ),
    (
        71,
        "5xx on job-done is tried again",
        Tests(&["a_result_is_repeated_until_it_is_accepted", "a_result_is_tried_until_it_is_accepted"]),
    ),
    (
        72,
        "so are connection errors; 4xx is not",
        Partly(
            &[
                "a_result_survives_a_connection_that_breaks_while_it_is_posted",
                "a_body_that_is_refused_is_replaced_by_the_reason",
                "a_result_that_is_answered_with_404_is_not_posted_again",
                "every_class_of_answer_has_its_verdict",
            ],
            "401, 403, 408 and 429 say nothing about the result, so it is tried again",
        ),
    ),
    (
        73,
        "a job is in the heartbeat until its result is delivered",
        Tests(&["the_slot_does_not_wait_for_the_network_and_the_job_stays_in_the_heartbeat"]),
    ),
    (
        74,
        "a result that has no JSON form is reported as an error",
        Tests(&["an_output_that_cannot_be_written_as_json_fails_the_job"]),
    ),
    (75, "numbers that JSON lacks become null", Tests(&["numbers_that_json_lacks_become_null"])),
    (
        76,
        "progress goes to job-done, in order and never after the result",
        Tests(&[
            "chunks_and_progress_have_their_own_shape",
            "the_newest_progress_wins_and_none_follows_the_result",
            "a_result_waits_for_the_progress_in_flight",
        ]),
    ),
    // Streams.
    (
        88,
        "each item is one job-stream POST, in order, one at a time",
        Tests(&[
            "chunks_come_one_by_one_and_before_the_result",
            "posts_use_the_route_headers_and_body_of_the_protocol",
        ]),
    ),
    (
        89,
        "the last job-done of a stream says so, with [] or what the handler returned",
        Tests(&["outputs_are_wrapped_unparsed", "chunks_come_one_by_one_and_before_the_result"]),
    ),
    (90, "an item with a truthy error ends the stream", Not(TYPED)),
    (
        91,
        "a chunk that cannot be delivered does not end its job",
        Tests(&["a_lost_chunk_does_not_hold_back_the_rest", "chunks_that_keep_failing_share_one_time_limit"]),
    ),
    // Heartbeats, checks, shutdown.
    (
        99,
        "the first heartbeat comes before the first take",
        Tests(&["a_heartbeat_precedes_the_first_poll_and_names_the_jobs_that_are_held"]),
    ),
    (
        100,
        "job_id lists what is held, runpod_version is always there",
        Tests(&[
            "pings_start_at_once_and_list_what_is_held",
            "a_heartbeat_precedes_the_first_poll_and_names_the_jobs_that_are_held",
        ]),
    ),
    (101, "heartbeats go on while a handler blocks", Tests(&["the_heartbeat_goes_on_while_the_handler_spins"])),
    (
        102,
        "their failures never end the worker; 429 and 5xx are tried again",
        Tests(&["only_429_and_5xx_make_a_ping_retry", "pings_that_fail_are_repeated_and_harm_nothing"]),
    ),
    (
        103,
        "a failed check is reported and exits with 1 before any take",
        Tests(&[
            "a_worker_on_a_machine_that_fails_a_check_takes_no_job",
            "a_worker_whose_handler_fails_its_check_takes_no_job",
        ]),
    ),
    (
        104,
        "the report has its four fields, is short, and gives up after 2 s",
        Tests(&[
            "an_unhealthy_report_is_sent_before_the_end",
            "an_unhealthy_report_without_an_answer_takes_two_seconds",
        ]),
    ),
    (
        105,
        "on SIGTERM no take is started, jobs finish, the status is 0",
        Tests(&["sigterm_lets_the_running_job_finish", "drain_finishes_what_runs_and_exits_with_0"]),
    ),
    (
        106,
        "the held take is ended, and a job that comes in that moment is not lost",
        Partly(
            &[
                "a_job_that_waits_in_the_queue_at_sigterm_stays_there",
                "a_job_in_an_answer_that_is_arriving_at_sigterm_is_run",
                "a_job_that_arrives_too_late_for_the_drain_is_neither_run_nor_reported",
            ],
            "not at once but within a second, so that an answer under way can arrive",
        ),
    ),
    // Local runs, realtime, load balancing, logs.
    (
        144,
        "--test_input wins over the file; a missing id is local_test",
        Tests(&["without_a_queue_one_local_job_is_run"]),
    ),
    (
        145,
        "the local run exits with 1 on bad input or a failure",
        Partly(
            &["test_runs_one_job_and_prints_its_result"],
            "input that is missing or no job at all is a mistake on the command line, whose status is 64",
        ),
    ),
    (146, "a local stream prints its items", Tests(&["test_prints_the_items_of_a_stream"])),
    (
        147,
        "--rp_serve_api serves a local API",
        Partly(
            &["the_local_api_of_a_python_worker_runs_jobs"],
            "the worker has /runsync and names `runpod-endpoint dev` for the others, behind which it is the one of production",
        ),
    ),
    (
        148,
        "that API really executes jobs and has the routes of the platform",
        Partly(
            &["a_handler_is_tried_without_a_queue_and_behind_one", "the_client_commands_speak_to_an_endpoint"],
            "the endpoint has it, not the worker",
        ),
    ),
    (
        149,
        "RUNPOD_REALTIME_PORT serves the bare result",
        Tests(&["the_realtime_port_answers_with_the_bare_result", "the_realtime_port_is_off_unless_it_is_a_port"]),
    ),
    (
        150,
        "on the platform each log line is a JSON object with three keys first",
        Tests(&[
            "json_lines_have_the_platforms_keys_first",
            "lines_of_a_job_have_the_platforms_form_and_say_what_the_platform_looks_for",
        ]),
    ),
    (
        151,
        "elsewhere lines are text of RunPod's form below a banner",
        Partly(
            &["text_lines_name_the_job_when_there_is_one"],
            "the banner names RunPod's SDK and its version, which this is not",
        ),
    ),
    (
        152,
        "lines of a job carry its id; Started. and Finished. are there",
        Tests(&["lines_of_a_job_have_the_platforms_form_and_say_what_the_platform_looks_for"]),
    ),
    (153, "lines of a job of a batch begin with the batch", Tests(&["lines_of_a_job_carry_its_batch_and_its_trace"])),
    (154, "messages over 4096 characters lose their middle", Tests(&["long_messages_lose_their_middle"])),
    (
        155,
        "a load-balancing worker serves PORT and answers health checks on PORT_HEALTH",
        Tests(&[
            "ping_says_204_while_the_model_loads",
            "a_load_balancing_worker_answers_as_the_guide_says",
            "ports_of_the_platform_are_on_all_addresses_and_the_default_is_local",
        ]),
    ),
    (
        156,
        "unknown flags are left alone",
        Not("a misspelt flag is an error with a hint; what follows `--` is the handler's"),
    ),
];
