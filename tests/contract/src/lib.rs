//! One suite of promises for every store: the doc comments of `application::ports`, each held to by a test.
//!
//! # How a store plugs in
//!
//! Implement [`Harness`] for something that owns a fresh, empty store with a database of its own, give an async
//! function that makes one, and name it in [`store_contract!`] inside an integration test of this package:
//!
//! ```ignore
//! struct Memory { store: Arc<MemoryStore> }
//!
//! #[async_trait]
//! impl Harness for Memory {
//!     fn store(&self) -> Arc<dyn Store> { self.store.clone() }
//!     async fn advance(&self, by: Duration) { self.store.advance(by) }
//!     async fn turn_back(&self, by: Duration) { self.store.turn_back(by) }
//! }
//!
//! async fn fresh() -> Memory { … }
//!
//! contract_tests::store_contract!(fresh);
//! ```
//!
//! The macro expands to one `#[tokio::test]` per promise, in one module per part of the contract. Promises run in
//! parallel and in any order, each on a store of its own.
//!
//! The store's clock stands still except for [`Harness::advance`]; whole microseconds, near the present (tests
//! reach a few weeks to both sides). Such a clock is given to a test constructor of the store, never to its configuration.
//!
//! # How a promise is added
//!
//! Write a `pub async fn` that takes `&dyn Harness` in the module of its part, and add its name to the list in
//! [`store_contract!`]; a test here fails when one is missing from the list.

// The fixtures are the suite's vocabulary: every promise is written in it.
#![allow(clippy::wildcard_imports)]

pub mod batches;
pub mod cancel;
pub mod claim;
pub mod delete;
pub mod fair;
pub mod fixtures;
pub mod fleet;
pub mod flows;
pub mod history;
pub mod lane;
pub mod mirror;
pub mod model;
pub mod queues;
pub mod quotas;
pub mod race;
pub mod read;
pub mod record;
pub mod retention;
pub mod schedules;
pub mod servers;
pub mod settle;
pub mod submit;
pub mod upkeep;
pub mod usage;
pub mod workers;

use std::{sync::Arc, time::Duration};

use application::ports::Store;
use async_trait::async_trait;

/// A store under test, alone on a database of its own, with a clock in the test's hand.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store. Each call answers the same one.
    fn store(&self) -> Arc<dyn Store>;

    /// Moves the store's clock forward. It stands still otherwise.
    async fn advance(&self, by: Duration);

    /// Sets the same clock back.
    async fn turn_back(&self, by: Duration);
}

/// Expands to one test per promise for the store that `$fresh().await` makes.
#[macro_export]
macro_rules! store_contract {
    ($fresh:ident) => {
        $crate::store_contract! { @each $fresh;
            submit {
                ids_rise_in_the_order_given
                an_empty_batch_is_nothing
                ids_are_never_reused
                every_field_comes_back
                a_task_that_is_due_waits_as_pending
                a_task_for_later_waits_as_scheduled
                json_is_kept_byte_for_byte
                strange_text_and_big_documents_are_kept
                a_big_batch_is_kept_whole
                times_are_kept_in_microseconds
            }
            read {
                tasks_come_in_the_order_asked_and_unknown_ids_are_left_out
                lists_are_newest_first
                lists_are_filtered
                pages_follow_one_another
                tenants_see_only_their_own
                counts_are_by_queue_and_status_in_order
                ping_names_the_store_and_its_clock
            }
            claim {
                claims_by_id_take_only_what_is_pending
                a_claim_carries_the_task
                the_next_go_by_priority_and_then_by_age
                the_next_keep_to_their_limits
                queues_take_turns_inside_a_priority
                single_claims_take_turns_too
                priority_goes_before_turns
                only_living_workers_claim
                attempts_rise_with_each_claim
            }
            settle {
                a_finish_ends_the_task
                every_end_is_kept_with_its_error
                a_wait_of_zero_is_pending_at_once
                a_wait_is_scheduled_and_shows_its_error
                settlements_are_fenced
                another_workers_settlement_is_stale
                answers_come_in_order
                a_resent_settlement_is_answered_yes
                a_resent_settlement_changes_nothing
                a_different_settlement_of_an_ended_attempt_is_stale
                a_wait_that_did_not_know_of_a_cancellation_is_refused
                a_finish_need_not_know_of_a_cancellation
                partial_results_are_kept
                a_dead_workers_task_can_still_be_settled
            }
            history {
                times_follow_the_life_of_a_task
                updated_at_changes_with_the_state
                attempts_are_listed_oldest_first
                the_running_attempt_is_listed
                an_end_while_waiting_is_no_attempt
                unknown_tasks_have_no_attempts
            }
            cancel {
                waiting_tasks_end_at_once
                running_tasks_are_marked_for_their_worker
                ended_tasks_stay_as_they_are
                outcomes_come_one_per_id
                a_cancelled_retry_keeps_its_last_start
                cancelled_tasks_are_not_claimed
                requests_end_with_the_attempt
            }
            delete {
                ended_and_waiting_tasks_go_with_all_that_belongs_to_them
                running_tasks_are_left_alone
                deleted_tasks_are_not_settled
                outcomes_come_one_per_id
            }
            record {
                the_last_progress_is_shown
                progress_outlives_the_attempt
                chunks_come_in_order_over_attempts
                chunks_can_be_read_on
                resent_chunks_are_kept_once
                what_is_not_held_is_dropped_silently
                extreme_numbers_and_texts_are_kept
            }
            upkeep {
                due_tasks_are_promoted
                promotion_keeps_its_limit
                the_next_due_is_told
                waiting_tasks_expire
                running_tasks_do_not_expire
                expiry_keeps_its_limit
                the_waiting_are_listed_in_order
                queues_that_wait_are_named
            }
            workers {
                each_registration_is_fresh
                silence_makes_a_worker_overdue
                a_clock_that_was_set_back_hides_no_silence
                a_heartbeat_renews_the_lease
                only_the_seen_heartbeat_is_buried
                the_dead_stay_dead
                orphans_are_found_and_settled
                orphans_keep_their_limit
                retired_workers_leave_releases_behind
                retiring_after_death_changes_nothing
            }
            race {
                no_task_is_claimed_twice
                ids_are_claimed_once
                the_first_end_wins
                concurrent_submissions_do_not_mix
                one_burial_wins
                dropped_calls_leave_whole_changes
            }
            retention {
                ended_tasks_go_when_their_time_has_passed
                removal_comes_in_small_steps
                a_tasks_own_retention_goes_before_the_rules
                types_have_their_own_retention
                rules_that_change_hold_for_what_is_there
                what_ends_late_goes_late
                what_waiting_tasks_need_is_kept
                the_items_of_a_batch_are_kept_until_it_has_completed
                the_whole_history_can_be_walked
            }
            schedules {
                schedules_are_kept_under_their_names
                due_schedules_are_told_in_order
                a_plan_is_written_whole
                one_of_many_plans_is_written
                a_changed_or_removed_schedule_is_not_fired
            }
            queues {
                paused_queues_stay_so_until_they_are_resumed
                the_longest_wait_is_told_by_queue
                a_purge_ends_what_waits_in_its_queue_and_nothing_else
                a_waiting_task_changes_its_priority_and_its_place
                what_waits_for_long_grows_more_urgent_and_the_last_is_never_starved
                runs_are_summed_up_by_minute
                what_living_workers_serve_is_told
                a_limited_queue_runs_no_more_than_it_may
                a_limited_queue_starts_no_more_than_its_rate_lets_through
                suspects_of_a_limited_queue_count_as_the_others_do
                limits_hold_over_many_claimers_at_once
            }
            fleet {
                a_worker_is_shown_as_it_introduced_itself
                the_last_report_is_shown
                workers_that_are_gone_are_listed_for_a_while
                commands_are_given_until_they_are_answered
                an_answer_is_the_workers_own_and_the_first_one_stands
                who_is_gone_is_told_nothing
                old_reports_are_forgotten_in_steps
            }
            flows {
                a_task_starts_when_all_that_it_waits_for_have_completed
                what_has_ended_already_is_followed_up
                a_task_gives_up_when_one_that_it_needs_fails
                every_way_of_ending_is_followed_up
                who_has_stopped_waiting_is_left_alone
                results_are_put_into_the_inputs_that_refer_to_them
                a_flow_is_stored_once_and_whole
                a_needed_task_that_runs_again_is_waited_for_again
                a_task_that_never_ran_looks_at_its_needs_again
                a_batch_concludes_when_all_its_items_have_ended
                items_of_a_batch_wait_for_each_other
                many_may_follow_up_at_once
                an_end_that_races_with_a_submission_is_not_missed
                an_end_that_is_needed_wakes_who_follows_up
            }
            batches {
                the_largest_batch_is_kept_whole
                a_batch_whose_items_are_read_piece_by_piece_is_stored_whole_or_not_at_all
            }
            fair {
                lanes_take_turns
                a_lane_begins_at_the_queues_clock
                ranks_are_given_when_tasks_begin_to_wait
                lanes_learn_what_their_tasks_use
                lanes_are_forgotten_when_their_turn_has_passed
            }
            quotas {
                no_more_passes_than_the_quota_has
                a_closed_meter_is_closed_for_all
                meters_are_forgotten_when_nobody_uses_them
                meters_can_be_read
                calls_under_way_are_counted_over_all_processes
            }
            lane {
                requests_are_gathered_in_their_order
                a_batch_is_bounded_in_bytes
                answers_make_their_tasks_due
                requests_go_with_their_tasks
            }
            usage {
                calls_are_kept_with_their_attempt
                usage_is_summed_by_group_and_day
                only_what_applies_is_counted
                sums_outlive_their_tasks
                concurrent_sums_are_exact
                a_batch_comes_to_what_its_items_do
            }
            mirror {
                both_answer_alike_first
                both_answer_alike_second
                both_answer_alike_third
            }
            model {
                random_histories_keep_every_promise_first
                random_histories_keep_every_promise_second
                random_histories_keep_every_promise_third
            }
        }
    };
    (@each $fresh:ident; $($part:ident { $($promise:ident)* })*) => {
        $(
            mod $part {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $promise() {
                        let harness = super::$fresh().await;
                        $crate::$part::$promise(&harness).await;
                    }
                )*
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    /// A promise that no store is held to would be a comment.
    #[test]
    fn every_promise_is_in_the_list() {
        let list = include_str!("lib.rs");
        let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("the sources");
        let files = sources.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        let parts: Vec<String> = files.map(|file| std::fs::read_to_string(file).expect("a source")).collect();
        let promises = parts
            .iter()
            .flat_map(|part| part.lines())
            .filter(|line| line.contains("(harness: &dyn Harness)"))
            .filter_map(|line| line.strip_prefix("pub async fn ").and_then(|rest| rest.split('(').next()));
        let mut found = 0;
        for promise in promises {
            found += 1;
            assert!(list.lines().any(|line| line.trim() == promise), "{promise} is not in store_contract!");
        }
        assert!(found > 80, "only {found} promises found: has their form changed?");
    }
}
