//! A child that never outlives this process, however this process ends.
//!
//! The server is started by a small shell that holds the other end of a pipe of ours. When we drop the pipe, are
//! interrupted or are killed, the shell reads the end of it, ends the server by its process id and removes its
//! directory. So no signal handler is needed, and `kill -9` leaves nothing behind either.

use std::{
    fs::File,
    net::TcpListener,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// `$1` is the signal that ends the server, `$2` its directory, the rest its command line. The server gets 10 s to
/// end by itself. The shell leads a process group of its own, so that Ctrl-C reaches us and not it.
const SCRIPT: &str = r#"
signal=$1 directory=$2
shift 2
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
(
  read -r _ <&3
  : >"$directory/ending"
  kill -s "$signal" "$server"
  for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -0 "$server" || exit; done
  kill -s KILL "$server"
) 2>/dev/null &
watcher=$!
wait "$server"
status=$?
kill "$watcher" 2>/dev/null
[ -e "$directory/ending" ] && rm -rf "$directory"
exit "$status"
"#;

/// The user a server runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    /// Its user id.
    pub(crate) uid: u32,
    /// Its group id.
    pub(crate) gid: u32,
}

/// A running server and its directory. Dropping it ends the server and removes the directory.
pub(crate) struct Supervised {
    name: &'static str,
    shell: Child,
    pipe: Option<ChildStdin>,
    directory: TempDir,
}

impl Supervised {
    /// Starts `command` (its program, arguments and environment) in `directory`, where its output goes to `log`.
    pub(crate) fn start(
        name: &'static str,
        command: &Command,
        signal: &str,
        directory: TempDir,
        user: Option<User>,
    ) -> Result<Self> {
        let log = File::create(directory.path().join("log")).context("cannot create a log file")?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "supervise", signal]).arg(directory.path());
        shell.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        shell.current_dir(directory.path()).process_group(0);
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        if let Some(user) = user {
            shell.uid(user.uid).gid(user.gid);
        }
        let mut shell = shell.spawn().with_context(|| format!("cannot start {name}"))?;
        let pipe = shell.stdin.take();
        Ok(Self { name, shell, pipe, directory })
    }

    /// What the server said last.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Asks `ready` until it says yes. An early end of the server, or `patience` spent, is an error with its log.
    pub(crate) fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        // An external process gives no signal that could be awaited.
        while !ready() {
            if let Some(status) = self.shell.try_wait()? {
                bail!("{} ended before it was ready ({status}); it said:\n{}", self.name, self.log_tail());
            }
            if started.elapsed() > patience {
                let seconds = patience.as_secs();
                bail!("{} was not ready after {seconds} s; it said:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.shell.wait() {
            eprintln!("cannot wait for the end of {}: {error}", self.name);
        }
    }
}

/// A directory of its own for a server, which `user` may write.
pub(crate) fn directory(name: &str, user: Option<User>) -> Result<TempDir> {
    let mut parent = std::env::temp_dir();
    if user.is_some() && !is_open_to_all(&parent) {
        parent = PathBuf::from("/tmp");
    }
    let directory = tempfile::Builder::new()
        .prefix(&format!("task-runner-test-{name}-"))
        .tempdir_in(parent)
        .context("cannot create a temporary directory")?;
    if let Some(user) = user {
        std::os::unix::fs::chown(directory.path(), Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot hand {} to user {}", directory.path().display(), user.uid))?;
    }
    Ok(directory)
}

/// Whether every user may look into `directory`: PostgreSQL runs as another user than root.
pub(crate) fn is_open_to_all(directory: &Path) -> bool {
    let open = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    directory.ancestors().all(|path| path.as_os_str().is_empty() || open(path))
}

/// A port of 127.0.0.1 that is free now. Another process may still take it: callers try again with a new one.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot bind a loopback port")?;
    Ok(listener.local_addr()?.port())
}

/// Starts a server on a free port; once more on a new port when it ends early, which is what a taken port looks like.
pub(crate) fn on_free_port<T>(start: impl Fn(u16) -> Result<T>) -> Result<T> {
    match start(free_port()?) {
        Ok(server) => Ok(server),
        Err(first) => start(free_port()?).map_err(|second| second.context(format!("first try: {first:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: &str) -> bool {
        Command::new("sh").args(["-c", "kill -0 $1 2>/dev/null", "alive", pid]).status().unwrap().success()
    }

    #[test]
    fn a_dropped_server_has_ended_and_its_directory_is_gone() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > pid.new; mv pid.new pid; exec sleep 600"]);
        let directory = directory("sleeper", None).unwrap();
        let path = directory.path().to_owned();
        let mut server = Supervised::start("sleeper", &command, "TERM", directory, None).unwrap();
        let file = path.join("pid");
        server.wait_until(Duration::from_secs(20), || file.exists()).unwrap();
        let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        assert!(alive(&pid));
        drop(server);
        assert!(!alive(&pid), "process {pid} outlived its owner");
        assert!(!path.exists());
    }

    #[test]
    fn a_server_that_ends_early_is_an_error_with_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo port taken; sleep 0.3; exit 3"]);
        let mut server =
            Supervised::start("broken", &command, "TERM", directory("broken", None).unwrap(), None).unwrap();
        let error = server.wait_until(Duration::from_secs(20), || false).unwrap_err().to_string();
        assert!(error.contains("ended before it was ready"), "{error}");
        assert!(error.contains("port taken"), "{error}");
    }
}
