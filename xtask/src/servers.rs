//! The private servers of a test run: PostgreSQL, Redis and, for the client tests, the product itself. On loopback,
//! on free ports, in temporary directories; nothing of the machine's own services is touched.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    supervised::{self, Supervised, User},
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private PostgreSQL.
pub(crate) struct Postgres {
    /// `postgres://…`, as a superuser: tests create a database each.
    pub(crate) url: String,
    _server: Supervised,
}

impl Postgres {
    /// Starts the server whose programs are in `bin`.
    pub(crate) fn start(bin: &Path) -> Result<Self> {
        let user = if is_root()? { Some(unprivileged_user()?) } else { None };
        supervised::on_free_port(|port| Self::start_on(bin, user, port))
    }

    fn start_on(bin: &Path, user: Option<User>, port: u16) -> Result<Self> {
        let directory = supervised::directory("postgres", user)?;
        let data = directory.path().join("data");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "-D",
        ]);
        initdb.arg(&data).current_dir(directory.path());
        as_user(&mut initdb, user);
        process::output(&mut initdb).context("cannot create a PostgreSQL data directory")?;

        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        // The data lives for one run: nothing here survives a crash of the machine, and nothing has to.
        for setting in ["fsync=off", "full_page_writes=off", "max_connections=400", "shared_buffers=128MB"] {
            command.args(["-c", setting]);
        }
        let mut server = Supervised::start("PostgreSQL", &command, "INT", directory, user)?;
        server.wait_until(PATIENCE, || {
            let mut ready = Command::new(bin.join("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            ready.status().is_ok_and(|status| status.success())
        })?;
        Ok(Self { url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), _server: server })
    }
}

/// A private Redis.
pub(crate) struct Redis {
    /// `redis://…`
    pub(crate) url: String,
    _server: Supervised,
}

impl Redis {
    /// Starts `program`, keeping nothing on disk.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        supervised::on_free_port(|port| {
            let directory = supervised::directory("redis", None)?;
            let mut command = Command::new(program);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--maxclients", "4000"]);
            let mut server = Supervised::start("Redis", &command, "TERM", directory, None)?;
            server.wait_until(PATIENCE, || {
                exchange(port, "PING\r\n").is_some_and(|answer| answer.starts_with("+PONG"))
            })?;
            Ok(Self { url: format!("redis://127.0.0.1:{port}/"), _server: server })
        })
    }
}

/// The product, standalone on a fresh SQLite file.
pub(crate) struct Product {
    /// `http://127.0.0.1:…`, without a slash at its end.
    pub(crate) url: String,
    server: Supervised,
}

impl Product {
    /// Starts the built binary; its simulated provider answers within a second.
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        supervised::on_free_port(|port| {
            let directory = supervised::directory("product", None)?;
            let mut command = Command::new(binary);
            let data = directory.path().join("tasks.db");
            command.env("LISTEN", format!("127.0.0.1:{port}"));
            command.env("DATABASE_URL", format!("sqlite://{}", data.display()));
            command.env("SIMULATED_LATENCY", "0s..1s");
            // What a developer has set for their own server must not reach this one.
            for key in ["REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"] {
                command.env_remove(key);
            }
            let mut server = Supervised::start("task-runner", &command, "TERM", directory, None)?;
            server.wait_until(PATIENCE, || {
                let request = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                exchange(port, request).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            })?;
            Ok(Self { url: format!("http://127.0.0.1:{port}"), server })
        })
    }

    /// What it logged last, for a failed part.
    pub(crate) fn log_tail(&self) -> String {
        self.server.log_tail()
    }
}

/// Sends `request` and answers the start of what comes back.
fn exchange(port: u16, request: &str) -> Option<String> {
    let second = Duration::from_secs(1);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), second).ok()?;
    stream.set_read_timeout(Some(second)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Whether this process may switch users.
pub(crate) fn is_root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Who PostgreSQL runs as, because it refuses to run as root: the user of its package, else nobody.
fn unprivileged_user() -> Result<User> {
    let id = |flag: &str, name: &str| -> Option<u32> {
        process::output(Command::new("id").args([flag, name])).ok()?.trim().parse().ok()
    };
    for name in ["postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id("-u", name), id("-g", name)) {
            return Ok(User { uid, gid });
        }
    }
    bail!("PostgreSQL does not run as root and this machine has neither a user postgres nor a user nobody")
}

fn as_user(command: &mut Command, user: Option<User>) {
    use std::os::unix::process::CommandExt as _;
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}
