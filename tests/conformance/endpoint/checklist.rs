//! What RunPod's protocol asks of an endpoint, statement by statement, and the test that shows it.
//!
//! `module::test`: the modules `clients` and `workers` here drive the official programs, the others are in `endpoint/tests/endpoint`.

use end_to_end_tests::repository;

/// Each statement with its tests.
const CHECKLIST: &[(&str, &[&str])] = &[
    // Keys and URLs.
    (
        "both APIs accept the bare key and the Bearer form",
        &[
            "auth::each_api_wants_its_own_key_bare_or_as_bearer",
            "workers::keys_are_sent_bare_by_workers_and_as_bearer_by_clients",
        ],
    ),
    (
        "`job-take/w1&job_in_progress=0` is worker w1 with a parameter",
        &[
            "take::parameters_glued_to_the_path_are_understood",
            "workers::urls_without_a_query_and_with_an_unexpanded_name_work",
        ],
    ),
    (
        "`job-done/w1/j1&isStream=false` is worker w1, job j1",
        &[
            "take::parameters_glued_to_the_path_are_understood",
            "workers::urls_without_a_query_and_with_an_unexpanded_name_work",
        ],
    ),
    (
        "a literal $RUNPOD_POD_ID as worker is no error on job-take and job-stop",
        &[
            "take::an_unexpanded_placeholder_is_a_worker_like_any_other",
            "workers::urls_without_a_query_and_with_an_unexpanded_name_work",
        ],
    ),
    ("unknown query parameters are ignored", &["take::polls_may_be_posts_and_unknown_parameters_are_ignored"]),
    (
        "launched workers get URLs from which batch and stop routes can be derived",
        &["dev::workers_get_the_platforms_variables_and_no_secret_of_the_endpoint"],
    ),
    // Taking jobs.
    ("an idle job-take is held open, for less than 90 s", &["take::an_idle_poll_is_held_open"]),
    (
        "a job submitted while a job-take is held is delivered on it at once",
        &["take::a_held_poll_gets_a_new_job_at_once"],
    ),
    (
        "job-take answers with a string id and an input, also for {} and null",
        &["submit::id_and_input_are_always_delivered"],
    ),
    (
        "ids have safe characters; those of /runsync start with sync-",
        &["submit::runsync_answers_as_soon_as_the_job_has_ended"],
    ),
    (
        "job-take-batch returns 1 to batch_size jobs, or 204; routes may alternate",
        &[
            "take::a_batch_has_at_most_the_size_that_was_asked_for",
            "workers::a_concurrent_worker_ends_up_holding_four_jobs_and_counts_as_one",
        ],
    ),
    ("one job goes to one worker, even with many held requests", &["take::one_job_goes_to_one_of_many_polls"]),
    (
        "a job for a connection that is gone goes back to the head without a retry",
        &[
            "connections::a_poll_whose_connection_is_gone_gets_no_job",
            "connections::a_reply_that_nobody_reads_puts_the_job_back",
        ],
    ),
    (
        "first in, first out; low priority after all others",
        &["take::jobs_leave_first_in_first_out_and_low_priority_last"],
    ),
    (
        "refreshing and unhealthy workers get no job",
        &[
            "take::a_refreshing_worker_gets_no_further_job",
            "take::an_unhealthy_worker_gets_no_job_until_it_is_a_fresh_one",
            "workers::a_worker_that_fails_its_check_is_unhealthy_and_takes_nothing",
        ],
    ),
    (
        "a worker of concurrency 4 ends up holding four jobs",
        &["workers::a_concurrent_worker_ends_up_holding_four_jobs_and_counts_as_one"],
    ),
    // Stop channel.
    ("job-stop is held open and ends with 204", &["cancel::cancelling_a_running_job_stops_its_worker_once"]),
    (
        "after /cancel the id reaches the worker that holds the job",
        &[
            "cancel::cancelling_a_running_job_stops_its_worker_once",
            "workers::a_cancelled_job_is_stopped_on_an_asynchronous_worker_which_takes_the_next_one",
        ],
    ),
    (
        "a stop signal waits until fetched, comes once, and ends with the job",
        &[
            "cancel::a_stop_signal_waits_for_its_worker_and_ends_with_the_job",
            "cancel::a_stop_signal_that_a_worker_ignores_is_repeated",
        ],
    ),
    (
        "a late result of a cancelled job is acknowledged and changes nothing",
        &[
            "results::the_first_result_wins_and_later_ones_are_acknowledged",
            "cancel::cancelling_a_running_job_stops_its_worker_once",
        ],
    ),
    // Results.
    ("bodies are read whatever media type they declare", &["results::the_declared_media_type_does_not_matter"]),
    (
        "NaN and Infinity do not lose a result",
        &[
            "results::bodies_decide_between_completed_and_failed",
            "workers::results_of_a_plain_handler_arrive_as_they_were_returned",
        ],
    ),
    (
        "progress shows as output, never ends a job, and is ignored when late",
        &[
            "results::progress_shows_as_output_and_never_ends_a_job",
            "workers::progress_shows_as_output_until_the_result_replaces_it",
        ],
    ),
    (
        "output gives COMPLETED, a truthy error FAILED with output beside it, {} no output",
        &[
            "results::bodies_decide_between_completed_and_failed",
            "workers::results_of_a_plain_handler_arrive_as_they_were_returned",
        ],
    ),
    (
        "an exception arrives with its six fields",
        &["workers::an_exception_fails_the_job_with_its_six_fields_and_the_worker_goes_on"],
    ),
    (
        "stopPod ends the job and refreshes the worker",
        &[
            "take::a_refreshing_worker_gets_no_further_job",
            "dev::a_refreshing_worker_is_replaced",
            "workers::a_worker_that_refreshes_leaves_after_its_job_and_gets_no_other",
        ],
    ),
    ("X-Request-ID never names the job; the path does", &["take::request_ids_in_headers_are_never_trusted"]),
    (
        "results of unknown and finished jobs are acknowledged, with a body",
        &["results::results_of_unknown_and_untaken_jobs_are_acknowledged_and_dropped"],
    ),
    (
        "delayTime and executionTime are those of the latest attempt",
        &["submit::documents_have_all_fields_in_alphabetical_order"],
    ),
    // Streams.
    ("items come in order, once, also after the end", &["streaming::each_item_is_read_once_in_order_and_unchanged"]),
    (
        "/stream always has status and stream, and answers in less than 10 s",
        &["streaming::an_empty_read_is_held_for_less_than_the_clients_patience"],
    ),
    (
        "five items of a generator are five items at the client, then the end",
        &["clients::the_synchronous_client_completes_every_operation"],
    ),
    (
        "the stream of a cancelled job ends with an error status",
        &[
            "streaming::the_stream_of_a_cancelled_job_comes_to_an_end",
            "clients::the_synchronous_client_completes_every_operation",
        ],
    ),
    (
        "the stream of a job without items is its terminal status",
        &["streaming::a_job_that_streams_nothing_ends_its_stream_with_its_result"],
    ),
    // Heartbeats and leases.
    ("a heartbeat is answered with 200", &["health::a_worker_goes_from_initializing_to_idle_to_lost_to_forgotten"]),
    (
        "a job that its worker stops naming is dispatched once more, then FAILED",
        &[
            "lease::a_job_missing_from_heartbeats_is_dispatched_once_more_and_then_fails",
            "workers::a_crashed_workers_job_is_dispatched_once_more_and_then_fails",
        ],
    ),
    ("a heartbeat extends only jobs that its worker holds", &["lease::heartbeats_of_another_worker_extend_nothing"]),
    (
        "a result after a re-dispatch never flips a terminal state",
        &["results::the_first_result_wins_and_later_ones_are_acknowledged"],
    ),
    (
        "an unhealthy report shows in /health",
        &[
            "take::an_unhealthy_worker_gets_no_job_until_it_is_a_fresh_one",
            "workers::a_worker_that_fails_its_check_is_unhealthy_and_takes_nothing",
        ],
    ),
    (
        "a worker without heartbeats can take and finish jobs",
        &[
            "lease::a_worker_without_heartbeats_can_finish_jobs",
            "workers::a_worker_without_a_name_and_heartbeats_still_works",
        ],
    ),
    // Client API.
    ("/run answers IN_QUEUE before any worker sees the job", &["submit::run_answers_before_any_worker_exists"]),
    ("a body without an object or an input is a 400", &["submit::a_request_without_an_input_is_refused"]),
    (
        "input passes through untouched; unknown top-level fields do not",
        &["submit::payloads_pass_through_byte_by_byte"],
    ),
    (
        "webhook, policy and s3Config are accepted; s3Config reaches the worker",
        &["submit::bucket_credentials_reach_the_worker"],
    ),
    (
        "/runsync answers with the whole document once the job has ended",
        &["submit::runsync_answers_as_soon_as_the_job_has_ended"],
    ),
    ("/runsync holds for `wait` and the job goes on", &["submit::runsync_hands_over_to_status_when_its_time_is_up"]),
    ("hanging up on /runsync does not stop the job", &["submit::a_client_that_leaves_runsync_does_not_stop_the_job"]),
    ("/status takes GET and POST; /status-sync waits", &["submit::status_sync_waits_for_the_end"]),
    (
        "documents have id and status, terminal ones their times and worker",
        &[
            "submit::documents_have_all_fields_in_alphabetical_order",
            "workers::results_of_a_plain_handler_arrive_as_they_were_returned",
        ],
    ),
    ("unknown ids are 404 with a JSON body", &["submit::unknown_jobs_are_not_found"]),
    (
        "/cancel works from the queue; such a job is never delivered",
        &["cancel::a_job_cancelled_in_the_queue_is_never_delivered"],
    ),
    ("/cancel does not change a finished job", &["cancel::a_finished_job_cannot_be_cancelled"]),
    (
        "/retry takes failed jobs only, keeps id and input, clears the rest",
        &["cancel::a_failed_job_can_be_retried_with_its_id_and_input"],
    ),
    ("/purge-queue removes waiting jobs and counts them", &["cancel::purging_removes_waiting_jobs_only"]),
    ("/health has eleven integers and ready equals idle", &["health::all_eleven_counters_are_there_from_the_start"]),
    (
        "four jobs of one worker: inProgress 4, running 1",
        &[
            "health::four_jobs_of_one_worker_count_as_one_running_worker",
            "workers::a_concurrent_worker_ends_up_holding_four_jobs_and_counts_as_one",
        ],
    ),
    (
        "executionTimeout fails the job and stops the worker",
        &["policy::a_job_over_its_execution_timeout_fails_and_is_stopped"],
    ),
    ("ttl removes a job in any state", &["policy::ttl_removes_a_job_in_any_state"]),
    ("policies outside of their range are refused", &["policy::policies_outside_of_their_range_are_refused"]),
    (
        "bodies above the limit get 400 with a problem document",
        &[
            "submit::bodies_have_the_platforms_limits_and_its_answer",
            "connections::an_oversized_body_is_answered_and_not_reset",
        ],
    ),
    ("results stay readable for their retention", &["policy::results_stay_readable_for_their_retention"]),
    (
        "webhooks carry the document plus input and webhook, three attempts in all",
        &[
            "webhooks::the_body_is_the_job_document_with_input_and_webhook",
            "webhooks::three_attempts_are_made_and_no_more",
        ],
    ),
    (
        "a dead webhook receiver delays nothing",
        &["webhooks::a_receiver_that_never_answers_delays_neither_jobs_nor_other_receivers"],
    ),
    (
        "rate limits answer 429 and are off by default",
        &[
            "rate_limits::requests_beyond_the_table_get_429_until_the_window_ends",
            "rate_limits::nothing_is_limited_by_default_and_workers_never_are",
        ],
    ),
    (
        "the synchronous Python client completes every operation",
        &["clients::the_synchronous_client_completes_every_operation"],
    ),
    (
        "the asynchronous Python client completes every operation",
        &["clients::the_asynchronous_client_submits_polls_streams_and_cancels"],
    ),
    ("the SDK's pod queries show local workers", &["clients::the_official_pod_queries_show_local_workers"]),
    ("the JavaScript SDK completes every operation", &["clients::the_javascript_client_completes_every_operation"]),
    ("a wrong key is a 401 with a JSON body", &["auth::each_api_wants_its_own_key_bare_or_as_bearer"]),
    (
        "a thousand jobs in a row: none lost, none run twice",
        &[
            "clients::many_jobs_in_a_row_are_neither_lost_nor_run_twice",
            "clients::a_thousand_jobs_in_a_row_are_neither_lost_nor_run_twice",
        ],
    ),
    (
        "workers that are launched without system checks start offline",
        &["workers::results_of_a_plain_handler_arrive_as_they_were_returned"],
    ),
    // Since late 2026, and version 2.0 of the Python package.
    (
        "a result over the limit ends its job as FAILED at once, with both sizes in the error",
        &[
            "results::a_result_that_cannot_be_read_fails_the_job_at_once",
            "workers::a_result_over_the_limit_fails_its_job_at_once",
        ],
    ),
    (
        "timeout, ttl and cancel of a running job put its id on the stop channel",
        &[
            "policy::a_job_over_its_execution_timeout_fails_and_is_stopped",
            "policy::ttl_removes_a_job_in_any_state",
            "cancel::cancelling_a_running_job_stops_its_worker_once",
        ],
    ),
    (
        "{} and {\"__empty\": true} reach the worker unchanged",
        &["prestart::empty_inputs_reach_the_worker_as_they_are", "workers::empty_inputs_reach_the_handler"],
    ),
    ("a job is visible as soon as /run has answered", &["submit::run_answers_before_any_worker_exists"]),
    (
        "an empty /stream is held, also while the job is queued",
        &["streaming::an_empty_read_is_held_for_less_than_the_clients_patience"],
    ),
    (
        "items are delivered before a final status is shown, whatever it is",
        &["streaming::items_come_before_the_status_of_a_failed_job"],
    ),
    (
        "/runsync?wait=29000 answers within 29 s with id and status",
        &["submit::runsync_hands_over_to_status_when_its_time_is_up"],
    ),
    (
        "no endpoint has an id that RunPod reserves",
        &[
            "commands::ids_that_runpod_reserves_are_refused",
            "submit::no_request_creates_an_endpoint_whose_name_runpod_reserves",
        ],
    ),
    (
        "slow hooks: the job stays with its worker by heartbeat and completes",
        &["hooks::a_job_waits_for_slow_hooks_and_is_not_given_to_another_worker"],
    ),
    (
        "failing hooks: at most one job fails, with the reason, and none is lost",
        &[
            "hooks::failing_hooks_fail_one_job_with_the_reason_and_the_others_are_run_elsewhere",
            "prestart::a_worker_that_cannot_start_fails_one_job_and_the_others_wait_for_a_better_one",
            "prestart::where_another_worker_is_there_the_job_is_tried_on_it_once",
        ],
    ),
    (
        "SIGTERM during hooks: the job is queued again and completes elsewhere",
        &[
            "hooks::a_worker_that_is_stopped_during_its_hooks_gives_its_job_back",
            "prestart::a_worker_that_is_stopped_while_it_starts_gives_its_job_back",
        ],
    ),
    (
        "an unhealthy report as the first request is shown, and forgotten later",
        &[
            "workers::a_worker_that_fails_its_check_is_unhealthy_and_takes_nothing",
            "prestart::an_unhealthy_report_as_the_first_request_leaves_no_ghost",
        ],
    ),
    (
        "job-take for $ID and job-done for $RUNPOD_POD_ID without isStream work",
        &["prestart::a_worker_that_only_fails_gets_no_more_than_three_jobs"],
    ),
    (
        "a worker without heartbeats that only fails gets no more jobs",
        &[
            "prestart::a_worker_that_only_fails_gets_no_more_than_three_jobs",
            "prestart::failures_of_a_worker_that_sends_heartbeats_or_has_completed_a_job_are_those_of_its_jobs",
        ],
    ),
    (
        "16 KiB of logs and of traceback in an error are returned whole",
        &[
            "prestart::an_error_with_logs_and_traceback_of_the_official_size_is_returned_whole",
            "hooks::an_error_with_the_logs_of_the_worker_is_returned_whole",
        ],
    ),
    (
        "OpenAI: text of an event stream arrives joined wherever it was cut, and an error output has its status",
        &[
            "openai_streams::a_streaming_request_gets_events_as_items_arrive",
            "openai::the_status_of_a_failure_tells_whether_to_try_again",
        ],
    ),
    // The batch API.
    (
        "POST /batch takes an array, also an empty one, and answers id and DRAFT; adding takes an object, and a body that is too large adds nothing",
        &["batch::a_batch_is_a_draft_until_it_is_finalized"],
    ),
    (
        "no request of a DRAFT is handed to a worker; after /finalize adding and removing are refused and change nothing",
        &["batch::a_batch_is_a_draft_until_it_is_finalized"],
    ),
    (
        "a batch stays FINALIZED when all has ended; a failed request has an error and no output, and stops no other",
        &["batch::results_and_errors_are_read_in_pages"],
    ),
    (
        "createdAt is in milliseconds, startedAt and completedAt are RFC 3339 and absent before they happen",
        &["batch::a_batch_is_a_draft_until_it_is_finalized", "batch::a_cancelled_batch_lets_running_requests_end"],
    ),
    (
        "pages have each request once; batches are listed newest first",
        &["batch::results_and_errors_are_read_in_pages", "batch::batches_are_listed_newest_first_and_have_limits"],
    ),
    (
        "cancelling ends what waits, lets what runs end without a stop signal, and then shows CANCELLED",
        &["batch::a_cancelled_batch_lets_running_requests_end"],
    ),
    (
        "a job of a batch carries batchId, and a job of /run, which comes first, does not",
        &["batch::results_and_errors_are_read_in_pages"],
    ),
    (
        "too many batches or requests are refused with a clear 4xx; the limits are settings",
        &["batch::batches_are_listed_newest_first_and_have_limits"],
    ),
    ("results of a batch outlive those of /run", &["batch::results_and_errors_are_read_in_pages"]),
];

// Statements without a test of their own. "status is never RUNNING": there is no such value in the type. "job-done
// answers within 600 s": it waits for nothing but its own body, which is read for 300 s at most.

#[test]
fn every_statement_names_tests_that_exist() {
    let folders = ["tests/conformance/endpoint", "endpoint/tests/endpoint"].map(|folder| repository().join(folder));
    for (statement, tests) in CHECKLIST {
        assert!(!tests.is_empty(), "{statement}");
        for test in *tests {
            let (module, name) = test.split_once("::").unwrap();
            let files = folders.iter().map(|folder| folder.join(format!("{module}.rs")));
            let source = files.filter_map(|file| std::fs::read_to_string(file).ok()).next();
            let source = source.unwrap_or_else(|| panic!("no module {module}"));
            assert!(source.contains(&format!("fn {name}()")), "{test} does not exist: {statement}");
        }
    }
}
