//! Private PostgreSQL and Redis servers on loopback, for tests.
//!
//! Each server runs under a watchdog, a small shell script that reads commands from its standard input. When the
//! input ends, because the owner was dropped or because the test process died in whatever way, the watchdog stops the
//! server and removes its directory. So nothing outlives a test, not even after `kill -9`.
//!
//! A run of many test processes shares one server of each kind: see [`PostgresServer::URL_VARIABLE`] and
//! [`RedisServer::URL_VARIABLE`].
#![allow(clippy::disallowed_methods)] // tests may read the environment and wait for other processes

mod small_disk;

pub use small_disk::SmallDisk;

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use postgres_adapter::PostgresStore;
use sqlx::Connection;

/// How long a server may take to start; only a broken or very busy machine needs more than a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A PostgreSQL server with a superuser `postgres` who needs no password.
#[derive(Debug)]
pub struct PostgresServer {
    url: String,
    process: Option<Watched>,
}

impl PostgresServer {
    /// Names the server that tests share, as a URL whose role may create databases. Without it each test process
    /// starts its own, which costs it about a second.
    pub const URL_VARIABLE: &str = "TASK_RUNNER_TEST_POSTGRES_URL";

    /// The server of this test process: the one that [`Self::URL_VARIABLE`] names, else a private one.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<PostgresServer> =
            LazyLock::new(|| match std::env::var(PostgresServer::URL_VARIABLE) {
                Ok(url) if !url.is_empty() => PostgresServer { url, process: None },
                _ => PostgresServer::start()
                    .unwrap_or_else(|error| panic!("no PostgreSQL for the tests: {error}")),
            });
        &SHARED
    }

    /// A private server that does not wait for the disk. A crash of the machine would lose its data, which is lost
    /// with the test anyway.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&["fsync=off", "full_page_writes=off"])
    }

    /// A private server with PostgreSQL's own durability, for measurements and crash tests.
    pub fn start_durable() -> io::Result<Self> {
        Self::start_durable_with(&[])
    }

    /// The same with more settings, such as `max_connections=400`.
    pub fn start_durable_with(settings: &[&str]) -> io::Result<Self> {
        Self::start_with(&[&["fsync=on"], settings].concat())
    }

    fn start_with(settings: &[&str]) -> io::Result<Self> {
        // A link in PATH may lead to the directory that holds the sister programs.
        let postgres = find_program("postgres", "install PostgreSQL (Debian: apt-get install postgresql)")?
            .canonicalize()?;
        let directory = ServerDirectory::create("task-runner-postgres-", Some("postgres"))?;
        let mut process = Watched::new(&directory, "QUIT")?;
        let data = directory.path.join("data");

        // The template databases of initdb are the same bytes each time: no need to wait for the disk.
        let mut initdb = Command::new(postgres.with_file_name("initdb"));
        initdb
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data);
        initdb.current_dir(&directory.path);
        directory.run_as_owner(&mut initdb);
        let output = initdb.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!(
                "initdb failed: {}",
                String::from_utf8_lossy(&output.stderr)
            )));
        }

        let port = process.start_on_a_free_port(
            |port| {
                let mut line = vec![postgres.display().to_string(), "-D".into(), data.display().to_string()];
                let port = format!("port={port}");
                let common =
                    [&*port, "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"];
                for setting in common.iter().chain(settings) {
                    line.extend(["-c".to_owned(), (*setting).to_owned()]);
                }
                line
            },
            |_| postgres_is_ready(&data),
        )?;
        Ok(Self { url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), process: Some(process) })
    }

    /// The maintenance database, `postgres` on a private server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same server's database of this name.
    pub fn database_url(&self, database: &str) -> String {
        let (base, options) = match self.url.split_once('?') {
            Some((base, options)) => (base, format!("?{options}")),
            None => (&*self.url, String::new()),
        };
        let server = base.rsplit_once('/').map_or(base, |(server, _)| server);
        format!("{server}/{database}{options}")
    }

    /// A fresh database with this program's schema; answers its URL. A copy of a template that is migrated once per
    /// server and version of the schema, so it takes some 20 ms.
    pub async fn create_database(&self) -> String {
        let create = async {
            let mut connection = sqlx::PgConnection::connect(&self.url).await?;
            let template = self.template(&mut connection).await?;
            let name = self.create(&mut connection, Some(&template)).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(self.database_url(&name))
        };
        create.await.unwrap_or_else(|error| panic!("no database for the test: {error}"))
    }

    /// A fresh database with nothing in it; answers its URL.
    pub async fn create_empty_database(&self) -> String {
        let create = async {
            let mut connection = sqlx::PgConnection::connect(&self.url).await?;
            let name = self.create(&mut connection, None).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(self.database_url(&name))
        };
        create.await.unwrap_or_else(|error| panic!("no database for the test: {error}"))
    }

    async fn create(
        &self,
        connection: &mut sqlx::PgConnection,
        template: Option<&str>,
    ) -> sqlx::Result<String> {
        // The server makes the name: no two processes meet.
        let name: String = sqlx::query_scalar("SELECT 'test_' || replace(gen_random_uuid()::text, '-', '')")
            .fetch_one(&mut *connection)
            .await?;
        let template = template.unwrap_or("template0");
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(connection).await?;
        Ok(name)
    }

    /// The name of the migrated template, which the first caller makes.
    async fn template(&self, connection: &mut sqlx::PgConnection) -> sqlx::Result<String> {
        const LOCK: i64 = 0x7465_6d70_6c61_7465; // "template"
        let name = format!("task_runner_template_{:016x}", schema_fingerprint());
        let known = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
        if sqlx::query_scalar(known).bind(&name).fetch_one(&mut *connection).await? {
            return Ok(name);
        }
        sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *connection).await?;
        if !sqlx::query_scalar(known).bind(&name).fetch_one(&mut *connection).await? {
            let unfinished = self.create(connection, None).await?;
            let migrated = PostgresStore::migrate(&self.database_url(&unfinished)).await;
            migrated.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
            // Under its name it is complete.
            let rename = format!("ALTER DATABASE {unfinished} RENAME TO {name}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(rename)).execute(&mut *connection).await?;
        }
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(connection).await?;
        Ok(name)
    }

    /// Stops a private server as an operator would, cutting every connection.
    pub fn stop(&self) -> io::Result<()> {
        self.private()?.stop("INT")
    }

    /// Stops a private server as a crash would: nothing is flushed, and the next start recovers.
    pub fn crash(&self) -> io::Result<()> {
        self.private()?.stop("QUIT")
    }

    /// `kill -9` of a private server's main process. The others end when they notice; [`Self::resume`] waits for that.
    pub fn kill(&self) -> io::Result<()> {
        let process = self.private()?;
        process.stop("KILL")?;
        // It had no time to take its word back that it is ready.
        let pid_file = process.directory.join("data/postmaster.pid");
        let text = fs::read_to_string(&pid_file)?;
        let lines: Vec<_> = text.lines().take(7).collect();
        fs::write(&pid_file, lines.join("\n") + "\n")
    }

    /// Starts a private server again on the same port and data, and waits until it serves.
    pub fn resume(&self) -> io::Result<()> {
        let process = self.private()?;
        let data = process.directory.join("data");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match process.start(|| postgres_is_ready(&data)) {
                // Orphans of a killed server still hold its memory, for a moment.
                Err(error) if error.to_string().contains("shared memory") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    fn private(&self) -> io::Result<&Watched> {
        self.process.as_ref().ok_or_else(|| io::Error::other("a shared server is not this test's to stop"))
    }
}

/// Tells one version of the migrations from another.
fn schema_fingerprint() -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/postgres");
    let files = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("no migrations in {}: {error}", folder.display()));
    let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let text = fs::read(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        (file.file_name(), text).hash(&mut hasher);
    }
    hasher.finish()
}

/// The postmaster notes its state on the eighth line of its pid file.
fn postgres_is_ready(data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid"))
        .is_ok_and(|pid_file| pid_file.lines().nth(7).is_some_and(|state| state.trim() == "ready"))
}

/// A Redis server that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    url: String,
    port: u16,
    process: Option<Watched>,
}

impl RedisServer {
    /// Names the server that tests share; they keep apart by key prefixes of their own.
    pub const URL_VARIABLE: &str = "TASK_RUNNER_TEST_REDIS_URL";

    /// The server of this test process: the one that [`Self::URL_VARIABLE`] names, else a private one. Use a random
    /// key prefix on it, and never FLUSHALL.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<RedisServer> =
            LazyLock::new(|| match std::env::var(RedisServer::URL_VARIABLE) {
                Ok(url) if !url.is_empty() => RedisServer { url, port: 0, process: None },
                _ => RedisServer::start().unwrap_or_else(|error| panic!("no Redis for the tests: {error}")),
            });
        &SHARED
    }

    /// A private server, for tests that flush, stop or pause it. It is up in some 10 ms.
    pub fn start() -> io::Result<Self> {
        let redis = find_program("redis-server", "install Redis (Debian: apt-get install redis-server)")?;
        let directory = ServerDirectory::create("task-runner-redis-", None)?;
        let mut process = Watched::new(&directory, "KILL")?;
        let port = process.start_on_a_free_port(
            |port| {
                let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
                let mut line = vec![redis.display().to_string(), "--port".into(), port.to_string()];
                line.extend(options.map(str::to_owned));
                line.push(directory.path.display().to_string());
                line
            },
            redis_is_ready,
        )?;
        Ok(Self { url: format!("redis://127.0.0.1:{port}/0"), port, process: Some(process) })
    }

    /// Database 0 of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port of a private server on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills a private server: connections are cut and all data is gone.
    pub fn stop(&self) -> io::Result<()> {
        self.private()?.stop("KILL")
    }

    /// Starts a stopped private server again, empty, on the same port, and waits until it serves.
    pub fn resume(&self) -> io::Result<()> {
        self.private()?.start(|| redis_is_ready(self.port))
    }

    /// [`Self::stop`] and [`Self::resume`].
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.resume()
    }

    /// Freezes a private server: connections stay open and nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        self.private()?.command("signal STOP")
    }

    /// Ends [`Self::pause`].
    pub fn unpause(&self) -> io::Result<()> {
        self.private()?.command("signal CONT")
    }

    fn private(&self) -> io::Result<&Watched> {
        self.process.as_ref().ok_or_else(|| io::Error::other("a shared server is not this test's to stop"))
    }
}

fn redis_is_ready(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        connection.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG")
    };
    ask().unwrap_or(false)
}

/// Reads commands and answers each with one line. `start` runs `$dir/start` and notes its process id in `$dir/pid`
/// and, when it has ended, its exit status in `$dir/exit`.
const WATCHDOG: &str = r#"
dir=$1 last=$2
signal() { kill -s "$1" "$(cat "$dir/pid")" 2>/dev/null; }
while read -r word argument; do
  case $word in
    start)
      rm -f "$dir/exit" "$dir/pid"
      { sh "$dir/start" </dev/null >>"$dir/log" 2>&1; echo $? >"$dir/exit"; } &
      while [ ! -s "$dir/pid" ] && [ ! -s "$dir/exit" ]; do sleep 0.01; done ;;
    signal) signal "$argument" ;;
    stop) signal "$argument"; wait ;;
  esac
  echo done
done
signal "$last"
wait
rm -rf "$dir"
"#;

/// A server process and the watchdog that ends it with us.
#[derive(Debug)]
struct Watched {
    directory: PathBuf,
    watchdog: Child,
    // `None` only while being dropped.
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Watched {
    fn new(directory: &ServerDirectory, last_signal: &str) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(&directory.path).arg(last_signal);
        command
            .current_dir(&directory.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // Ctrl-C in a terminal goes to the whole group; the watchdog must live to clean up.
        command.process_group(0);
        directory.run_as_owner(&mut command);
        let mut watchdog = command.spawn()?;
        let pipes = watchdog.stdin.take().zip(watchdog.stdout.take().map(BufReader::new));
        Ok(Self { directory: directory.path.clone(), watchdog, pipes: Mutex::new(pipes) })
    }

    /// Runs a command line on a port that was free just before; another process may still be quicker, then it tries
    /// another one.
    fn start_on_a_free_port(
        &mut self,
        command_line: impl Fn(u16) -> Vec<String>,
        ready: impl Fn(u16) -> bool,
    ) -> io::Result<u16> {
        let mut tries = 5;
        loop {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let quoted: Vec<_> = command_line(port).iter().map(|word| shell_quoted(word)).collect();
            // The shell writes its own id and becomes the server, so the id is the server's.
            let pid = shell_quoted(&self.directory.join("pid").display().to_string());
            fs::write(self.directory.join("start"), format!("echo $$ >{pid}\nexec {}\n", quoted.join(" ")))?;
            match self.start(|| ready(port)) {
                Ok(()) => return Ok(port),
                Err(error) if tries == 1 => return Err(error),
                Err(_) => tries -= 1,
            }
        }
    }

    fn start(&self, ready: impl Fn() -> bool) -> io::Result<()> {
        self.command("start")?;
        let deadline = Instant::now() + START_LIMIT;
        while !ready() {
            let ended = self.directory.join("exit").exists();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(10).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Err(io::Error::other(format!("the server did not start; its last words:\n{tail}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn stop(&self, signal: &str) -> io::Result<()> {
        self.command(&format!("stop {signal}"))
    }

    /// Sends one command and waits for its answer.
    fn command(&self, line: &str) -> io::Result<()> {
        let mut pipes = self.pipes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((input, output)) = pipes.as_mut() else {
            return Err(io::Error::other("the watchdog is gone"));
        };
        writeln!(input, "{line}")?;
        let mut answer = String::new();
        match output.read_line(&mut answer)? {
            0 => Err(io::Error::other("the watchdog ended")),
            _ => Ok(()),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.pipes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        // Nothing to be done about a failure here: the watchdog ends by itself.
        let _ = self.watchdog.wait();
    }
}

fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A server's own directory, which its watchdog removes.
struct ServerDirectory {
    path: PathBuf,
    /// Who runs the server if not we.
    owner: Option<(u32, u32)>,
}

impl ServerDirectory {
    /// `instead_of_root`: the user that runs the server when the tests run as root, which PostgreSQL refuses to do.
    fn create(prefix: &str, instead_of_root: Option<&str>) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let we_are_root = fs::metadata(&path)?.uid() == 0;
        let owner = match instead_of_root {
            Some(user) if we_are_root => Some(find_user(user)?),
            _ => None,
        };
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        }
        Ok(Self { path, owner })
    }

    fn run_as_owner(&self, command: &mut Command) {
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
    }
}

fn find_user(name: &str) -> io::Result<(u32, u32)> {
    let number = |field: Option<&str>| field.and_then(|text| text.parse().ok());
    fs::read_to_string("/etc/passwd")?
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let user = fields.next()?;
            Some((user, number(fields.nth(1))?, number(fields.next())?))
        })
        .find(|(user, ..)| *user == name)
        .map(|(_, user, group)| (user, group))
        .ok_or_else(|| {
            io::Error::other(format!("the tests run as root and there is no user {name:?} to run the server"))
        })
}

/// Looks where Debian keeps the versions of PostgreSQL, newest first, and then in PATH.
fn find_program(name: &str, advice: &str) -> io::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .map(|(_, path)| path)
        .chain(std::env::split_paths(&in_path))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| io::Error::other(format!("{name} was not found: {advice}")))
}
