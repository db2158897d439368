//! One process of the product: started, listened to, ended.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{LOOK, PATIENCE};

/// How much of a log a failed test shows.
const LOG_LINES: usize = 80;

/// Environment variables of a process; nothing else of ours reaches it but `PATH`.
pub type Environment = [(String, String)];

/// A running process. It ends with this value, and with the test process, however that ends.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// Kills the child when our end of its standard input is closed. `None` once the child has ended.
    watchdog: Option<Child>,
    log: PathBuf,
}

/// Where the binary of this name was built.
///
/// # Panics
///
/// When it was not.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it lies");
    let deps = test.ancestors().find(|path| path.file_name().is_some_and(|name| name == "deps"));
    // A test lies in `deps` of the folder with the binaries; a binary that tests lies beside them.
    let folder = deps.unwrap_or(&test).parent().unwrap_or_else(|| panic!("{} has no folder", test.display()));
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A command that is yet to be started, such as one whose output goes into a pipe.
pub fn command(name: &str, arguments: &[&str], environment: &Environment, folder: &Path) -> Command {
    let mut command = Command::new(binary(name));
    command.args(arguments).current_dir(folder).env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs(environment.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
    command
}

/// Runs a command of `task-runner` to its end.
///
/// # Panics
///
/// When it takes too long.
pub async fn run(arguments: &[&str], environment: &Environment, folder: &Path) -> Output {
    run_binary("task-runner", arguments, environment, folder).await
}

/// Runs one of the binaries to its end.
///
/// # Panics
///
/// When it takes too long.
pub async fn run_binary(name: &str, arguments: &[&str], environment: &Environment, folder: &Path) -> Output {
    let mut command = tokio::process::Command::from(command(name, arguments, environment, folder));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    output
        .unwrap_or_else(|_| panic!("`{name} {}` did not end", arguments.join(" ")))
        .unwrap_or_else(|error| panic!("`{name} {}` did not run: {error}", arguments.join(" ")))
}

impl Program {
    /// Starts one of the binaries; what it writes goes to a file in `folder`, where it also runs.
    pub fn start(name: &str, arguments: &[&str], environment: &Environment, folder: &Path) -> Self {
        static STARTS: AtomicUsize = AtomicUsize::new(1);
        let log = folder.join(format!("{name}-{}.log", STARTS.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors = file.try_clone().expect("a second handle");
        let mut command = command(name, arguments, environment, folder);
        let child = command.stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", "read line; kill -9 \"$1\"", "watchdog", &child.id().to_string()]);
        // Ctrl-C in a terminal goes to the whole group; the watchdog must live to do its work.
        watchdog.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = watchdog.spawn().expect("there is a shell");
        Self { name: name.to_owned(), child, watchdog: Some(watchdog), log }
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written this.
    ///
    /// # Panics
    ///
    /// When it ends, or too much time passes, without.
    pub async fn writes(&mut self, text: &str) {
        if let Err(why) = self.try_writes(text).await {
            panic!("{why}");
        }
    }

    /// The same, for who has a second chance.
    pub(crate) async fn try_writes(&mut self, text: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.ended();
            if self.log().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(format!("{} ended with {status} before it wrote {text:?}", self.name));
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not write {text:?} in time", self.name));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Freezes it: connections stay open and nothing happens.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} could not be sent SIG{name}", self.name);
    }

    /// Sends SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.dismiss_the_watchdog();
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our own child can be asked");
        if status.is_some() {
            self.dismiss_the_watchdog();
        }
        status
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// When it runs on.
    pub async fn ends_within(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} still runs after {patience:?}", self.name);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The id of an ended process may soon be another's: nobody may kill by it.
    fn dismiss_the_watchdog(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(LOG_LINES);
            let tail: Vec<_> = log.lines().skip(skipped).collect();
            eprintln!(
                "--- {} ({skipped} earlier lines) ---\n{}\n---",
                self.log.file_name().unwrap_or_default().display(),
                tail.join("\n")
            );
        }
    }
}
