//! Between the server and PostgreSQL: a wire tap, which counts round trips, and scissors, which cut the wire.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use memchr::memmem;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

use crate::harness::{Server, postgres, with_timeout};

/// Connections through it are counted.
pub struct CountingProxy {
    directory: tempfile::TempDir,
    round_trips: Arc<AtomicUsize>,
    liveness_checks: Arc<AtomicUsize>,
}

impl CountingProxy {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let [round_trips, signs_of_life] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let target = postgres::socket_dir().await;
        tokio::spawn({
            let (round_trips, signs_of_life) = (round_trips.clone(), signs_of_life.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay(client, target.clone(), round_trips.clone(), signs_of_life.clone()));
                }
            }
        });
        Self { directory, round_trips, liveness_checks: signs_of_life }
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        through(&self.directory, database)
    }

    /// The fewest round trips that a request takes, of a few tries while the server may rely on its memory: the first ones fill
    /// it, and each connection prepares a statement once.
    pub async fn min_round_trips(&self, server: &Server, ask: impl AsyncFn()) -> usize {
        with_timeout("memory that can be relied on", self.fewest_of_eight(server, ask)).await
    }

    /// How often connections were asked for a sign of life.
    pub fn signs_of_life(&self) -> usize {
        self.liveness_checks.load(Ordering::SeqCst)
    }

    async fn fewest_of_eight(&self, server: &Server, ask: impl AsyncFn()) -> usize {
        let (mut fewest, mut tries) = (usize::MAX, 0);
        while tries < 8 {
            let memory = memory(server).await;
            self.round_trips.store(0, Ordering::SeqCst);
            ask().await;
            let taken = self.round_trips.load(Ordering::SeqCst);
            if memory.is_some() && memory == self::memory(server).await {
                (fewest, tries) = (fewest.min(taken), tries + 1);
            }
        }
        fewest
    }
}

/// How often memory was forgotten; `None` while it isn't to be relied on.
async fn memory(server: &Server) -> Option<String> {
    let page = server.metrics().await;
    let forgotten = page.lines().find(|line| line.starts_with("mortise_cache_invalidations_total "));
    forgotten.filter(|_| page.contains("mortise_cache_valid 1\n")).map(str::to_owned)
}

/// PostgreSQL ends each of its turns with a message of the kind `Z`. A turn that consists of nothing else is the pool
/// making sure of a connection that a request has given back: no request waits for it, so it isn't a round trip. Only connections for
/// requests count: each says what it is called when it begins.
async fn relay(
    client: UnixStream,
    target: PathBuf,
    round_trips: Arc<AtomicUsize>,
    signs_of_life: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let server = UnixStream::connect(target.join(".s.PGSQL.5432")).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let length = from_client.read_u32().await?;
    let mut greeting = vec![0; length as usize - 4];
    from_client.read_exact(&mut greeting).await?;
    let counts = memmem::find(&greeting, b"\0application_name\0mortise\0").is_some();
    to_server.write_u32(length).await?;
    to_server.write_all(&greeting).await?;
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut said_something = false;
    loop {
        let kind = from_server.read_u8().await?;
        let length = from_server.read_u32().await?;
        let mut message = vec![0; length as usize - 4];
        from_server.read_exact(&mut message).await?;
        if kind == b'Z' && counts {
            let which = if said_something { &round_trips } else { &signs_of_life };
            which.fetch_add(1, Ordering::SeqCst);
        }
        said_something = kind != b'Z';
        to_client.write_u8(kind).await?;
        to_client.write_u32(length).await?;
        to_client.write_all(&message).await?;
    }
}

/// Connections through it can be cut: just when PostgreSQL has done something, before anybody hears of it, or all at once.
pub struct FaultProxy {
    directory: tempfile::TempDir,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    cut_at: Mutex<Option<&'static str>>,
    cut: Notify,
    away: watch::Sender<bool>,
}

impl FaultProxy {
    /// Before the PostgreSQL of all tests.
    pub async fn new() -> Self {
        Self::with_target(postgres::socket_dir().await).await
    }

    /// Before the PostgreSQL whose socket is in a directory.
    pub async fn with_target(target: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let wire = Arc::<Wire>::default();
        tokio::spawn({
            let wire = wire.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (wire, target) = (wire.clone(), target.clone());
                    tokio::spawn(async move {
                        let mut away = wire.away.subscribe();
                        tokio::select! {
                            _ = away.wait_for(|away| *away) => {}
                            _ = relay_until_cut(client, target, &wire) => {}
                        }
                    });
                }
            }
        });
        Self { directory, wire }
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        through(&self.directory, database)
    }

    /// Cuts one connection, when it is told that this command is done.
    pub fn cut_after_command(&self, command: &'static str) {
        *self.wire.cut_at.lock().unwrap() = Some(command);
    }

    /// Until that has happened.
    pub async fn wait_for_cut(&self) {
        self.wire.cut.notified().await;
    }

    /// Cuts all connections, and lets none through until it is told otherwise.
    pub fn set_unreachable(&self, away: bool) {
        self.wire.away.send_replace(away);
    }
}

async fn relay_until_cut(client: UnixStream, target: PathBuf, wire: &Wire) -> std::io::Result<()> {
    let server = UnixStream::connect(target.join(".s.PGSQL.5432")).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let copying = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let _end = AbortOnDrop(copying.abort_handle());
    loop {
        let kind = from_server.read_u8().await?;
        let length = from_server.read_u32().await?;
        let mut message = vec![0; length as usize - 4];
        from_server.read_exact(&mut message).await?;
        let is_done = |command: &str| kind == b'C' && message.strip_suffix(b"\0") == Some(command.as_bytes());
        if wire.cut_at.lock().unwrap().take_if(|command| is_done(command)).is_some() {
            wire.cut.notify_one();
            return Ok(());
        }
        to_client.write_u8(kind).await?;
        to_client.write_u32(length).await?;
        to_client.write_all(&message).await?;
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn through(directory: &tempfile::TempDir, database: &str) -> PgConnectOptions {
    // The answer to an offer of TLS isn't a message like the others.
    PgConnectOptions::new_without_pgpass()
        .socket(directory.path())
        .username("postgres")
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}
