//! Every key of the configuration.

/// A key: its name in the file (the environment has it in capitals), its default, and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Such as `database_url`.
    pub name: &'static str,
    /// Empty for none.
    pub default: &'static str,
    /// One line.
    pub meaning: &'static str,
    /// Never shown.
    pub secret: bool,
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning, secret: false }
}

/// Every key. Lists exist in the file only: `[[routes]] pattern = "ai.*" queue = "ai_processing"`, `[[types]]`, `[[schedules]]`,
/// `[[providers]]`, `[[models]]`.
pub const KEYS: &[Key] = &[
    key(
        "database_url",
        "sqlite://data/task-runner.db",
        "postgres://… for any number of processes, sqlite://PATH for one",
    ),
    key("database_pool_size", "20", "most connections to PostgreSQL of one process"),
    key("database_connect_timeout", "5s", "how long to wait for a connection to PostgreSQL"),
    key("database_statement_timeout", "10s", "how long one statement may take"),
    key("redis_url", "", "redis://…, with PostgreSQL: order and news; without it workers poll the store"),
    key("redis_pool_size", "8", "most connections to Redis of one process"),
    key("redis_prefix", "task-runner", "what every key in Redis starts with"),
    key("listen", "127.0.0.1:8000", "where the API listens; keep it on loopback, there are no API keys yet"),
    key("api_prefix", "/api/v1", "what every route of the API starts with"),
    key("max_connections", "20000", "connections to one API process, live readers included; more wait"),
    key("max_requests", "2000", "requests under way at once in one API process, 503 beyond"),
    key("waiting_limit", "", "most tasks that one tenant may have waiting, 429 beyond; empty for no limit"),
    key("allowed_hosts", "", "further Host names to answer to, comma separated; `*` for any"),
    Key { name: "openai_api_key", default: "", meaning: "key for the provider", secret: true },
    key(
        "openai_base_url",
        "",
        "any OpenAI-compatible server; https://api.openai.com/v1 when only a key is set",
    ),
    key("openai_connect_timeout", "10s", "until the provider accepts the connection"),
    key("openai_first_token_timeout", "120s", "until the first piece of the answer"),
    key("openai_idle_timeout", "60s", "between two pieces of the answer"),
    key("openai_total_timeout", "30m", "for the whole answer"),
    Key {
        name: "webhook_secrets",
        default: "",
        meaning: "whsec_… that sign what is published, comma separated; all of them sign, for rotation",
        secret: true,
    },
    key(
        "outbound_allow",
        "",
        "blocks and hosts to call although they are not public, such as 10.0.0.0/8,hooks.internal",
    ),
    key("outbound_ports", "80,443,8080,8443", "ports that are called; `*` for any"),
    key("outbound_connect_timeout", "5s", "until a receiver accepts the connection"),
    key("outbound_timeout", "20s", "for a whole call of a receiver; longer than the time-out above"),
    key("outbound_max_request", "5MB", "the largest message that is sent"),
    key("outbound_max_response", "64KB", "how much is read of a receiver's answer"),
    key("simulated_latency", "5s..15s", "how long the simulated provider takes; 0s for none"),
    key("worker_name", "worker@%h", "what people call this worker; %h is the host, %p the process id"),
    key("worker_queues", "", "queues to serve, comma separated; empty for every queue, also later ones"),
    key(
        "worker_exclude_queues",
        "",
        "queues not to serve, comma separated; in worker_queues they can be written with a minus before them",
    ),
    key(
        "worker_queue_order",
        "priority",
        "across a worker's queues: priority, strict (as they are listed), or weighted (worker_queues = a:3,b:1)",
    ),
    key("worker_concurrency", "1000", "tasks in flight at once"),
    key(
        "worker_soft_time_limit",
        "",
        "attempts on this worker are asked to stop after this long, whatever their tasks allow",
    ),
    key(
        "worker_time_limit",
        "",
        "attempts on this worker are stopped after this long, whatever their tasks allow",
    ),
    key("worker_max_tasks", "", "a worker drains after so many tasks, for its supervisor to replace it"),
    key("worker_max_memory", "", "a worker drains when it uses more than this, such as 512MB"),
    key("lease_seconds", "12", "a silent worker's tasks are taken over after about this long"),
    key("shutdown_grace", "10s", "how long a drain waits for running tasks before it gives them back"),
    key("manual_retention", "", "failed tasks are discarded after this long, such as 720h; empty for never"),
    key("retention", "7d", "ended tasks are removed after this long, or never; [[types]] for single types"),
    key("clean_up", "0 2 * * *", "when the daily clean-up runs: a cron expression in UTC, or never"),
    key("max_input", "1MiB", "the largest input of a task, 422 beyond"),
    key("max_result", "4MiB", "the largest result of a task, which fails beyond"),
    key("demo_crash_aborts", "false", "whether a task of type demo.crash may end its worker process"),
    key("default_queue", "default", "where tasks go that no route claims"),
    key("log_format", "text", "text or json"),
    key("rust_log", "info", "what is logged, such as `info` or `task_runner=debug,info`"),
];

/// Older names of keys, accepted in the environment.
pub(super) const ALIASES: &[(&str, &str)] = &[("API_V1_STR", "api_prefix")];
