//! A PostgreSQL server on a disk that can be filled.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{PostgresServer, START_LIMIT, ServerDirectory, Watched, find_program, postgres_is_ready};

/// Mounts a small disk in a namespace of its own, makes a server's data on it, and starts the server again whenever it
/// ends, as an operator's supervisor would. The postmaster runs as a user that is not root, which PostgreSQL insists on.
/// A background job of a shell ignores INT and QUIT, so the order to end is TERM.
const SUPERVISOR: &str = r#"
dir=$1 megabytes=$2 port=$3 programs=$4
mount -t tmpfs -o "size=${megabytes}m,mode=0700" tmpfs "$dir/disk" || exit 1
as_user() { exec unshare --user --map-user=1000 --map-group=1000 -- "$@"; }
( as_user "$programs/initdb" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --wal-segsize=1 \
    -D "$dir/disk/data" ) >/dev/null || exit 1
server=
trap 'kill -QUIT $server; wait $server; exit 0' TERM
while :; do
  ( as_user "$programs/postgres" -D "$dir/disk/data" -c "port=$port" -c listen_addresses=127.0.0.1 \
      -c unix_socket_directories= -c max_connections=100 -c shared_buffers=16MB \
      -c min_wal_size=2MB -c max_wal_size=8MB ) &
  server=$!
  wait $server
  sleep 0.1
done
"#;

/// A private PostgreSQL server with its data on a small disk (tmpfs) of its own. Needs no privileges, but a Linux that
/// lets users make namespaces; nothing of it is to be seen outside, and it is gone with the server.
#[derive(Debug)]
pub struct SmallDisk {
    server: PostgresServer,
    /// The disk as this process reaches it.
    disk: PathBuf,
}

impl SmallDisk {
    /// A server on a disk of so many megabytes; some 30 are in use from the start.
    pub fn start(megabytes: u32) -> io::Result<Self> {
        let postgres = find_program("postgres", "install PostgreSQL (Debian: apt-get install postgresql)")?;
        let programs = postgres.canonicalize()?.with_file_name("");
        let directory = ServerDirectory::create("task-runner-small-disk-", None)?;
        fs::create_dir(directory.path.join("disk"))?;
        fs::write(directory.path.join("supervisor"), SUPERVISOR)?;
        let mut process = Watched::new(&directory, "TERM")?;
        let line = |port: u16| {
            let [path, programs] = [&directory.path, &programs].map(|path| path.display().to_string());
            let unshare = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh"].map(str::to_owned);
            let script =
                [format!("{path}/supervisor"), path, megabytes.to_string(), port.to_string(), programs];
            unshare.into_iter().chain(script).collect()
        };
        let disk = || {
            let pid = fs::read_to_string(directory.path.join("pid")).unwrap_or_default();
            let inside = directory.path.strip_prefix("/").unwrap_or(&directory.path);
            PathBuf::from("/proc").join(pid.trim()).join("root").join(inside).join("disk")
        };
        let port = process.start_on_a_free_port(line, |_| postgres_is_ready(&disk().join("data")))?;
        let disk = disk();
        let server = PostgresServer {
            url: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            process: Some(process),
        };
        Ok(Self { server, disk })
    }

    /// The server. It is its supervisor that stops and starts it.
    pub fn server(&self) -> &PostgresServer {
        &self.server
    }

    /// Fills the disk to the last byte; answers how many it took.
    pub fn fill(&self) -> io::Result<u64> {
        let mut ballast = File::options().create(true).append(true).open(self.disk.join("ballast"))?;
        let mut piece = vec![0; 1 << 20];
        while !piece.is_empty() {
            match ballast.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                Err(error) => return Err(error),
            }
        }
        Ok(ballast.metadata()?.len())
    }

    /// Gives the space back.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.disk.join("ballast"))
    }

    /// Waits until the server serves, should it have ended meanwhile.
    pub fn wait_until_ready(&self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !postgres_is_ready(&self.disk.join("data")) {
            if Instant::now() > deadline {
                return Err(io::Error::other("PostgreSQL did not come back on its small disk"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
