//! One connection through a proxy.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use super::{Control, Mode, Shared, Wire, count, postgres::Session};

/// Why a direction is over.
enum End {
    /// Its sender has said all.
    Finished,
    /// Both ends are to be reset.
    Cut,
}

/// What the proxy knows of the talk on one connection.
enum Talk {
    Postgres(Session),
    Other {
        /// Whether the server owes an answer.
        asked: bool,
    },
}

/// What of the server's bytes may go on.
pub(super) struct Verdict {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}

/// Serves a client until either side is done, or the proxy resets it.
pub(super) async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut control = shared.control.subscribe();
    let resets = control.borrow_and_update().resets;
    if control.borrow().mode == Mode::Refuse {
        count(&shared.counts.resets);
        reset(&client);
        return;
    }
    let Some(server) = connect(&client, &shared, &mut control, resets).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let talk = Mutex::new(match shared.wire {
        Wire::Postgres => Talk::Postgres(Session::default()),
        Wire::Talk => Talk::Other { asked: false },
    });
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let cut = {
        let questions = questions(from_client, to_server, Gate::new(&shared, resets), &talk);
        let answers = answers(from_server, &to_client, Gate::new(&shared, resets), &talk);
        tokio::pin!(questions, answers);
        // A side that has said all may still listen; a cut ends both.
        tokio::select! {
            end = &mut questions => matches!(end, End::Cut) || matches!(answers.await, End::Cut),
            // PostgreSQL, Redis and HTTP servers that close have nothing more to hear.
            end = &mut answers => matches!(end, End::Cut),
        }
    };
    if cut {
        reset(to_client.as_ref());
        // Dropped, it would say a civil goodbye first.
        to_client.forget();
    }
}

/// A connection to the server; `None` when the client was sent away instead.
async fn connect(
    client: &TcpStream,
    shared: &Shared,
    control: &mut watch::Receiver<Control>,
    resets: u64,
) -> Option<TcpStream> {
    let mut gate = Gate { shared, control: control.clone(), resets };
    if gate.open().await.is_err() {
        reset(client);
        return None;
    }
    match TcpStream::connect(shared.upstream).await {
        Ok(server) => Some(server),
        Err(_) => {
            // As near as one gets to a refusal once the client is accepted.
            reset(client);
            None
        }
    }
}

/// A close that the peer sees as a reset: what is in flight is thrown away.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Lets bytes pass as the proxy's mode says.
struct Gate<'a> {
    shared: &'a Shared,
    control: watch::Receiver<Control>,
    resets: u64,
}

impl<'a> Gate<'a> {
    fn new(shared: &'a Shared, resets: u64) -> Self {
        Self { shared, control: shared.control.subscribe(), resets }
    }

    /// Until bytes may pass; an error when the connection is to be reset.
    async fn open(&mut self) -> Result<(), ()> {
        loop {
            let Control { mode, resets, .. } = *self.control.borrow_and_update();
            if resets != self.resets {
                count(&self.shared.counts.resets);
                return Err(());
            }
            match mode {
                Mode::Pass | Mode::CutAfter(_) | Mode::Refuse => return Ok(()),
                Mode::Delay(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => return Ok(()),
                        _ = self.control.changed() => {}
                    }
                }
                Mode::BlackHole => drop(self.control.changed().await),
                Mode::Forget => {
                    count(&self.shared.counts.forgotten);
                    self.told_to_reset().await;
                    return Err(());
                }
            }
        }
    }

    /// Until the connection is to be reset, or is to be forgotten without having said a word.
    async fn told_to_reset(&mut self) {
        while self.control.borrow_and_update().resets == self.resets {
            if self.control.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reads once; an error when the connection is to be reset. A connection that [`Mode::Forget`] finds open is
    /// forgotten even if it says nothing.
    async fn read(&mut self, from: &mut OwnedReadHalf, into: &mut [u8]) -> Result<usize, ()> {
        loop {
            let Control { mode, resets, .. } = *self.control.borrow_and_update();
            if resets != self.resets || mode == Mode::Forget {
                self.open().await?;
            }
            tokio::select! {
                read = from.read(into) => return Ok(read.unwrap_or(0)),
                _ = self.control.changed() => {}
            }
        }
    }

    /// How many of so many further bytes may pass before the cut, given what has passed in this turn.
    fn allowance(&self, bytes: usize, passed: &mut (u64, usize)) -> Option<usize> {
        let Control { mode, turn, .. } = *self.control.borrow();
        let Mode::CutAfter(most) = mode else { return None };
        if passed.0 != turn {
            *passed = (turn, 0);
        }
        passed.1 += bytes;
        (passed.1 > most).then(|| most.saturating_sub(passed.1 - bytes))
    }
}

/// From the client to the server.
async fn questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gate: Gate<'_>,
    talk: &Mutex<Talk>,
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read) = gate.read(&mut from, &mut buffer).await else { return End::Cut };
        if gate.open().await.is_err() {
            return End::Cut;
        }
        if read == 0 {
            let _ = to.shutdown().await;
            return End::Finished;
        }
        // Before the server can answer.
        match &mut *lock(talk) {
            Talk::Postgres(session) => session.hear_client(&buffer[..read]),
            Talk::Other { asked } => *asked = true,
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return End::Finished;
        }
    }
}

/// From the server to the client.
async fn answers(
    mut from: OwnedReadHalf,
    to: &OwnedWriteHalf,
    mut gate: Gate<'_>,
    talk: &Mutex<Talk>,
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = (0, 0);
    loop {
        let Ok(read) = gate.read(&mut from, &mut buffer).await else { return End::Cut };
        if gate.open().await.is_err() {
            return End::Cut;
        }
        if read == 0 {
            return End::Finished;
        }
        let bytes = &buffer[..read];
        let shared = gate.shared;
        let mut verdict = match &mut *lock(talk) {
            Talk::Postgres(session) => session.hear_server(bytes, || shared.cuts_this_answer()),
            Talk::Other { asked } => {
                let cut = std::mem::take(asked) && shared.cuts_this_answer();
                Verdict { bytes: if cut { Vec::new() } else { bytes.to_vec() }, cut }
            }
        };
        if let Some(allowed) = gate.allowance(verdict.bytes.len(), &mut passed) {
            verdict.bytes.truncate(allowed);
            if !verdict.cut {
                count(&shared.counts.cut_midway);
            }
            verdict.cut = true;
        }
        if write(to, &verdict.bytes).await.is_err() {
            return End::Finished;
        }
        if verdict.cut {
            return End::Cut;
        }
    }
}

async fn write(to: &OwnedWriteHalf, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lock(talk: &Mutex<Talk>) -> std::sync::MutexGuard<'_, Talk> {
    talk.lock().unwrap_or_else(PoisonError::into_inner)
}
