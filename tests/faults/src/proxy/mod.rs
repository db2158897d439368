//! A TCP proxy on loopback that breaks what passes through it, on command and while it runs.
//!
//! It stands between two processes of the product, or between a client and the product. What it can do is what networks
//! and middle boxes do: be slow, swallow everything without a sign, forget connections, reset them, cut them in the
//! middle of a message. And what only a proxy that understands the talk can do: cut a connection after a change was
//! committed and before its answer arrives, the moment that no retry without a key survives.

mod link;
mod postgres;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// What passes through a proxy, as far as it has to understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// PostgreSQL's protocol, version 3, without TLS: an answer is the end of a committed change.
    Postgres,
    /// A protocol of questions and answers, such as Redis' or HTTP/1: an answer is what the server says after the client
    /// has said something.
    Talk,
}

/// What a proxy does to all that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Nothing.
    #[default]
    Pass,
    /// Everything is this much late, in both directions.
    Delay(Duration),
    /// Connections are accepted and kept; nothing is forwarded and nothing closed. Afterwards what was held back goes on
    /// its way, as after a partition that TCP survived.
    BlackHole,
    /// The same, but the connections it has swallowed are lost: they stay open and mute for ever, as behind a firewall
    /// that has forgotten them. Only new ones work afterwards.
    Forget,
    /// Each connection is reset once so many further bytes have come from the server: in the middle of a message.
    CutAfter(usize),
    /// New connections are reset at once, as if nobody listened; the ones that are open go on.
    Refuse,
}

/// What a proxy has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections cut between the work and its answer.
    pub answers_cut: u64,
    /// Connections cut in the middle of the server's bytes.
    pub cut_midway: u64,
    /// Connections reset by [`Proxy::reset`] or refused.
    pub resets: u64,
    /// Connections that [`Mode::Forget`] has swallowed.
    pub forgotten: u64,
    /// Answers that could have been cut: committed changes, or answers of a [`Wire::Talk`].
    pub answers: u64,
}

/// A running proxy. Dropping it resets its connections and frees its port.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    wire: Wire,
    control: watch::Sender<Control>,
    scissors: Mutex<Scissors>,
    counts: Counters,
}

/// What every connection watches.
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    mode: Mode,
    /// Rises with every change of the mode.
    turn: u64,
    /// Rises with every reset of what is open.
    resets: u64,
}

/// When the next answer is cut.
#[derive(Debug)]
struct Scissors {
    rng: StdRng,
    /// One answer in so many; 0 for none.
    one_in: u32,
    /// How many more at most.
    left: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    answers_cut: AtomicU64,
    cut_midway: AtomicU64,
    resets: AtomicU64,
    forgotten: AtomicU64,
    answers: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of the loopback for a server on another. `seed` decides which answers are cut.
    pub async fn start(upstream: u16, wire: Wire, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let scissors = Scissors { rng: StdRng::seed_from_u64(seed), one_in: 0, left: 0 };
        let shared = Arc::new(Shared {
            upstream: (Ipv4Addr::LOCALHOST, upstream).into(),
            wire,
            control: watch::Sender::default(),
            scissors: Mutex::new(scissors),
            counts: Counters::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, accepting })
    }

    /// A proxy before the server that a URL names; answers it with the URL that leads through it.
    pub async fn before(url: &str, wire: Wire, seed: u64) -> io::Result<(Self, String)> {
        let malformed = || io::Error::other("a proxy needs a URL with host 127.0.0.1 and a port");
        let (before, after) = url.split_once("127.0.0.1:").ok_or_else(malformed)?;
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let upstream = after[..digits].parse().map_err(|_| malformed())?;
        let proxy = Self::start(upstream, wire, seed).await?;
        let through = format!("{before}127.0.0.1:{}{}", proxy.port, &after[digits..]);
        Ok((proxy, through))
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.shared.control.send_modify(|control| {
            control.mode = mode;
            control.turn += 1;
        });
    }

    /// Resets (RST) every connection that is open.
    pub fn reset(&self) {
        self.shared.control.send_modify(|control| control.resets += 1);
    }

    /// From now on cuts one answer in `one_in` (drawn from the seed), at most `most` of them; 0 for none.
    pub fn cut_answers(&self, one_in: u32, most: u64) {
        let mut scissors = self.shared.scissors.lock().unwrap_or_else(PoisonError::into_inner);
        scissors.one_in = one_in;
        scissors.left = most;
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let counts = &self.shared.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: read(&counts.accepted),
            answers_cut: read(&counts.answers_cut),
            cut_midway: read(&counts.cut_midway),
            resets: read(&counts.resets),
            forgotten: read(&counts.forgotten),
            answers: read(&counts.answers),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

impl Shared {
    /// Whether the answer that is about to leave is cut instead.
    fn cuts_this_answer(&self) -> bool {
        count(&self.counts.answers);
        let mut scissors = self.scissors.lock().unwrap_or_else(PoisonError::into_inner);
        let Scissors { one_in, left, .. } = *scissors;
        let cut = left > 0 && one_in > 0 && scissors.rng.random_range(0..one_in) == 0;
        if cut {
            scissors.left -= 1;
            count(&self.counts.answers_cut);
        }
        cut
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                count(&shared.counts.accepted);
                tokio::spawn(link::serve(client, Arc::clone(&shared)));
            }
            // The client has gone already, or descriptors are short for a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[cfg(test)]
mod tests;
