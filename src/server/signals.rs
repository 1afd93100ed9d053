//! The signals that stop the server or a command.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Returns a future that completes on SIGTERM, SIGINT or SIGHUP.
///
/// SIGINT and SIGHUP stay ignored if this process was started with them ignored: `nohup` ignores SIGHUP, and a shell
/// script ignores SIGINT for commands in the background.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal_unless_ignored(SignalKind::interrupt())?;
    let mut hangup = signal_unless_ignored(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            () = receive(&mut interrupt) => {}
            () = receive(&mut hangup) => {}
        }
    })
}

fn signal_unless_ignored(kind: SignalKind) -> std::io::Result<Option<Signal>> {
    if is_ignored(kind) { Ok(None) } else { signal(kind).map(Some) }
}

/// Whether this process ignores the signal, by the bit mask in `/proc`. `false` on systems without it.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

async fn receive(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}
