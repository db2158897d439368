//! What must hold for whoever uses or runs the product, on both bases where it applies.
#![allow(clippy::disallowed_methods)] // tests may wait for other processes

mod ai_errors;
mod ai_output;
mod bad_input;
mod batch_lane;
mod cancellation;
mod commands;
mod crashes;
mod drain;
mod example_page;
mod fairness;
mod flows;
mod gateways;
mod inbox;
mod keeping;
mod live_events;
mod manual_handling;
mod once;
mod openai;
mod order;
mod providers;
mod publishing;
mod queues;
mod quick_start;
mod quotas;
mod redis_outage;
mod replacement;
mod schedule;
mod schedules;
mod start;
mod store_outage;
mod task_types;
mod webhooks;
mod workers;
