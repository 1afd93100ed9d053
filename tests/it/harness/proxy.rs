//! Proxies between the server and PostgreSQL: one counts round trips, one cuts connections, one drops options.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use memchr::memmem;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

use crate::harness::{Server, postgres, with_timeout};

/// Counts the round trips of the connections through it.
pub struct CountingProxy {
    directory: tempfile::TempDir,
    round_trips: Arc<AtomicUsize>,
    liveness_checks: Arc<AtomicUsize>,
}

impl CountingProxy {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let [round_trips, liveness_checks] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let target = postgres::socket_dir().await;
        tokio::spawn({
            let (round_trips, liveness_checks) = (round_trips.clone(), liveness_checks.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (round_trips, liveness_checks) = (round_trips.clone(), liveness_checks.clone());
                    tokio::spawn(relay_and_count(client, target.clone(), round_trips, liveness_checks));
                }
            }
        });
        Self { directory, round_trips, liveness_checks }
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options_via(&self.directory, database)
    }

    /// Returns the fewest round trips that `send_request` needs while the cache is valid. The first requests need more:
    /// they fill the cache, and each connection prepares a statement once.
    pub async fn min_round_trips(&self, server: &Server, send_request: impl AsyncFn()) -> usize {
        with_timeout("a valid cache", self.min_of_eight(server, send_request)).await
    }

    /// The number of round trips so far.
    pub fn round_trips(&self) -> usize {
        self.round_trips.load(Ordering::SeqCst)
    }

    /// How often the pool has checked that a connection is alive.
    pub fn liveness_checks(&self) -> usize {
        self.liveness_checks.load(Ordering::SeqCst)
    }

    /// The minimum of eight measurements. One during which the cache was invalidated does not count.
    async fn min_of_eight(&self, server: &Server, send_request: impl AsyncFn()) -> usize {
        let (mut min, mut measurements) = (usize::MAX, 0);
        while measurements < 8 {
            let invalidations = cache_invalidations(server).await;
            self.round_trips.store(0, Ordering::SeqCst);
            send_request().await;
            let round_trips = self.round_trips.load(Ordering::SeqCst);
            if invalidations.is_some() && invalidations == cache_invalidations(server).await {
                (min, measurements) = (min.min(round_trips), measurements + 1);
            }
        }
        min
    }
}

/// The metric with the number of cache invalidations; `None` while the cache is not valid.
async fn cache_invalidations(server: &Server) -> Option<String> {
    let page = server.metrics().await;
    let metric = page.lines().find(|line| line.starts_with("mortise_cache_invalidations_total "));
    metric.filter(|_| page.contains("mortise_cache_valid 1\n")).map(str::to_owned)
}

/// PostgreSQL ends each reply with the message `ReadyForQuery` (`Z`). A reply that consists only of it answers the
/// pool's check of a returned connection. No request waits for that check, so it does not count as a round trip. Only
/// the server's connections count: the proxy recognises them by the application name in the startup message.
async fn relay_and_count(
    client: UnixStream,
    target: PathBuf,
    round_trips: Arc<AtomicUsize>,
    liveness_checks: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let server = UnixStream::connect(target.join(".s.PGSQL.5432")).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let length = from_client.read_u32().await?;
    let mut startup_message = vec![0; length as usize - 4];
    from_client.read_exact(&mut startup_message).await?;
    let is_counted = memmem::find(&startup_message, b"\0application_name\0mortise\0").is_some();
    to_server.write_u32(length).await?;
    to_server.write_all(&startup_message).await?;
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut has_content = false;
    loop {
        let kind = from_server.read_u8().await?;
        let length = from_server.read_u32().await?;
        let mut message = vec![0; length as usize - 4];
        from_server.read_exact(&mut message).await?;
        if kind == b'Z' && is_counted {
            let counter = if has_content { &round_trips } else { &liveness_checks };
            counter.fetch_add(1, Ordering::SeqCst);
        }
        has_content = kind != b'Z';
        to_client.write_u8(kind).await?;
        to_client.write_u32(length).await?;
        to_client.write_all(&message).await?;
    }
}

/// Cuts connections: one after PostgreSQL has completed a command and before the server receives the reply, or all of
/// them.
pub struct FaultProxy {
    directory: tempfile::TempDir,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    cut_after: Mutex<Option<&'static str>>,
    cut: Notify,
    unreachable: watch::Sender<bool>,
    listener_stalled: watch::Sender<bool>,
    /// Changed to freeze the connections that exist.
    frozen: watch::Sender<()>,
}

impl FaultProxy {
    /// A proxy for the PostgreSQL server of the tests.
    pub async fn new() -> Self {
        Self::with_target(postgres::socket_dir().await).await
    }

    /// A proxy for the PostgreSQL server whose socket is in the directory `target`.
    pub async fn with_target(target: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let faults = Arc::<Faults>::default();
        tokio::spawn({
            let faults = faults.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (faults, target) = (faults.clone(), target.clone());
                    tokio::spawn(async move {
                        let mut unreachable = faults.unreachable.subscribe();
                        let mut frozen = faults.frozen.subscribe();
                        let mut relay = pin!(relay_until_cut(client, target, &faults));
                        let is_frozen = tokio::select! {
                            _ = unreachable.wait_for(|unreachable| *unreachable) => false,
                            _ = &mut relay => false,
                            _ = frozen.changed() => true,
                        };
                        if is_frozen {
                            // The sockets stay open, and nothing polls the relay.
                            std::future::pending::<()>().await;
                        }
                    });
                }
            }
        });
        Self { directory, faults }
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options_via(&self.directory, database)
    }

    /// Cuts one connection, instead of relaying that this command is complete.
    pub fn cut_after_command(&self, command: &'static str) {
        *self.faults.cut_after.lock().unwrap() = Some(command);
    }

    /// Waits until [`cut_after_command`](Self::cut_after_command) has cut a connection.
    pub async fn wait_for_cut(&self) {
        self.faults.cut.notified().await;
    }

    /// Relays no more replies on the connections that exist, and leaves them open: as if the network had lost them.
    pub fn freeze_connections(&self) {
        self.faults.frozen.send_replace(());
    }

    /// `true`: cuts all connections and refuses new ones. `false`: relays again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.faults.unreachable.send_replace(unreachable);
    }

    /// `true`: holds back what PostgreSQL sends to the change listener. `false`: relays it.
    pub fn set_listener_stalled(&self, stalled: bool) {
        self.faults.listener_stalled.send_replace(stalled);
    }
}

async fn relay_until_cut(client: UnixStream, target: PathBuf, faults: &Faults) -> std::io::Result<()> {
    let server = UnixStream::connect(target.join(".s.PGSQL.5432")).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let length = from_client.read_u32().await?;
    let mut startup_message = vec![0; length as usize - 4];
    from_client.read_exact(&mut startup_message).await?;
    let is_listener = memmem::find(&startup_message, b"\0application_name\0mortise listener\0").is_some();
    to_server.write_u32(length).await?;
    to_server.write_all(&startup_message).await?;
    let mut listener_stalled = faults.listener_stalled.subscribe();
    let copying = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let _abort_copying = AbortOnDrop(copying.abort_handle());
    loop {
        let kind = from_server.read_u8().await?;
        let length = from_server.read_u32().await?;
        let mut message = vec![0; length as usize - 4];
        from_server.read_exact(&mut message).await?;
        let is_complete = |command: &str| kind == b'C' && message.strip_suffix(b"\0") == Some(command.as_bytes());
        if faults.cut_after.lock().unwrap().take_if(|command| is_complete(command)).is_some() {
            faults.cut.notify_one();
            return Ok(());
        }
        if is_listener {
            let _ = listener_stalled.wait_for(|stalled| !*stalled).await;
        }
        to_client.write_u8(kind).await?;
        to_client.write_u32(length).await?;
        to_client.write_all(&message).await?;
    }
}

/// Drops the parameter `options` of startup messages, like PgBouncer with `ignore_startup_parameters = options`.
pub struct PoolerProxy {
    directory: tempfile::TempDir,
    drops_options: Arc<AtomicBool>,
}

impl PoolerProxy {
    pub async fn new(drops_options: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let drops_options = Arc::new(AtomicBool::new(drops_options));
        let target = postgres::socket_dir().await;
        tokio::spawn({
            let drops_options = drops_options.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay_startup(client, target.clone(), drops_options.load(Ordering::SeqCst)));
                }
            }
        });
        Self { directory, drops_options }
    }

    /// Whether connections that are opened from now on lose their options.
    pub fn set_drops_options(&self, drops_options: bool) {
        self.drops_options.store(drops_options, Ordering::SeqCst);
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options_via(&self.directory, database)
    }
}

async fn relay_startup(mut client: UnixStream, target: PathBuf, drops_options: bool) -> std::io::Result<()> {
    let mut server = UnixStream::connect(target.join(".s.PGSQL.5432")).await?;
    let length = client.read_u32().await?;
    let mut message = vec![0; length as usize - 4];
    client.read_exact(&mut message).await?;
    // The protocol version, then names and values, each with a NUL at its end, then another NUL.
    let (version, parameters) = message.split_at(4);
    let parameters: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let is_kept = |name: &[u8]| !(name.is_empty() || drops_options && name == b"options");
    let kept = parameters.chunks_exact(2).filter(|pair| is_kept(pair[0]));
    let kept: Vec<u8> = kept.flatten().flat_map(|text| [text, &b"\0"[..]].concat()).collect();
    let startup_message = [version, &kept, b"\0"].concat();
    server.write_u32(u32::try_from(startup_message.len() + 4).unwrap()).await?;
    server.write_all(&startup_message).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn connect_options_via(directory: &tempfile::TempDir, database: &str) -> PgConnectOptions {
    // The proxies can't parse the reply to a TLS request: it is a single byte without a message header.
    PgConnectOptions::new_without_pgpass()
        .socket(directory.path())
        .username("postgres")
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}
