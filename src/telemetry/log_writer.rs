//! The writer of the server's log. A write to standard error can take any time: a pipe that its reader does not read, a
//! terminal that is stopped with Ctrl-S, a container's log driver that waits for its own target. So log lines wait in
//! memory, and a thread writes them. Lines that find no space are dropped, counted, and reported as soon as a write
//! succeeds again.

use std::cell::Cell;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Size of the queue in bytes: some thousand lines. The lines that the thread is writing take as much again at most.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Pause before a write is repeated, if standard error was set to non-blocking by another program that shares it.
const RETRY_DELAY: Duration = Duration::from_millis(20);

static QUEUE: Mutex<Queue> =
    Mutex::new(Queue { lines: Vec::new(), is_thread_running: false, is_writing: false, unreported: 0 });
static QUEUE_CHANGED: Condvar = Condvar::new();
static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this is the thread that writes the log. Its own lines are never dropped: they report the others.
    static IS_LOG_THREAD: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct Queue {
    /// The bytes of all lines that wait.
    lines: Vec<u8>,
    is_thread_running: bool,
    /// Whether the thread is writing lines that it has taken out of the queue.
    is_writing: bool,
    /// The dropped lines that the log has not reported yet.
    unreported: u64,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.is_writing
    }

    fn drop_lines(&mut self, count: u64) {
        self.unreported += count;
        DROPPED_LINES.fetch_add(count, Ordering::Relaxed);
    }
}

/// Queues lines for the thread that [`start`] starts. Never waits for standard error. Each call of
/// [`write`](Write::write) must be one line.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = lock_queue();
        if queue.lines.len() + line.len() > QUEUE_BYTES_MAX && !IS_LOG_THREAD.get() {
            queue.drop_lines(1);
        } else {
            queue.lines.extend_from_slice(line);
            QUEUE_CHANGED.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// Starts the thread that writes the lines to standard error.
///
/// # Errors
///
/// If the operating system refuses a new thread.
pub fn start() -> io::Result<()> {
    std::thread::Builder::new().name("log writer".to_owned()).spawn(|| run(io::stderr()))?;
    lock_queue().is_thread_running = true;
    Ok(())
}

/// Returns how many lines of the log were dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

/// Writes the error with which the program ends to standard error, through the queue if its thread runs.
pub fn print_error(error: &dyn std::error::Error) {
    let line = format!("mortise: {error}\n");
    if lock_queue().is_thread_running {
        // Never fails: the line is queued or counted as dropped.
        let _ = LogWriter.write(line.as_bytes());
    } else {
        eprint!("{line}");
    }
}

/// Waits until all queued lines are written, for at most `timeout`.
pub fn flush(timeout: Duration) {
    let queue = lock_queue();
    if queue.is_thread_running {
        drop(QUEUE_CHANGED.wait_timeout_while(queue, timeout, |queue| !queue.is_done()));
    }
}

fn run(mut output: impl Write) {
    IS_LOG_THREAD.set(true);
    let mut lines = Vec::new();
    loop {
        lines.clear();
        let mut queue = lock_queue();
        queue.is_writing = false;
        QUEUE_CHANGED.notify_all();
        let mut queue =
            QUEUE_CHANGED.wait_while(queue, |queue| queue.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut lines, &mut queue.lines);
        queue.is_writing = true;
        drop(queue);
        let result = write_all(&mut output, &lines);
        let mut queue = lock_queue();
        match result {
            Ok(()) => {
                let dropped = std::mem::take(&mut queue.unreported);
                drop(queue);
                if dropped > 0 {
                    tracing::warn!(dropped, "log lines dropped: standard error did not accept them in time");
                }
            }
            // Most probably the reader has closed the pipe, or the disk is full.
            Err(unwritten) => queue.drop_lines(count_lines(unwritten)),
        }
    }
}

/// Writes all bytes, also to a non-blocking output.
///
/// # Errors
///
/// The bytes that were not written.
fn write_all<'a>(output: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_DELAY),
            Err(_) => return Err(bytes),
        }
    }
    Ok(())
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn lock_queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}
