//! Ends the test process when a test hangs, for any reason: without it, a test whose wait never ends would block the
//! whole run. Waits that are likely to hang when the code is broken have a shorter limit: `harness::with_timeout`.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io::{Write, stderr};
use std::sync::{LazyLock, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// The time limit of a test, in seconds, if the environment variable `TEST_TIMEOUT_S` is not set.
const TIMEOUT_DEFAULT_S: u64 = 900;

/// The running tests that use the harness: name and start.
static TESTS: LazyLock<Mutex<HashMap<ThreadId, (String, Instant)>>> = LazyLock::new(|| {
    let timeout = std::env::var("TEST_TIMEOUT_S").map_or(TIMEOUT_DEFAULT_S, |text| text.parse().unwrap());
    thread::spawn(move || end_hanging_test(Duration::from_secs(timeout)));
    Mutex::default()
});

thread_local! {
    /// Dropped at the end of the test: each test has a thread of its own.
    static WATCHED_TEST: OnceCell<WatchedTest> = const { OnceCell::new() };
}

struct WatchedTest;

impl WatchedTest {
    fn start() -> Self {
        let current = thread::current();
        let name = current.name().unwrap_or("unnamed thread").to_owned();
        TESTS.lock().unwrap().insert(current.id(), (name, Instant::now()));
        Self
    }
}

impl Drop for WatchedTest {
    fn drop(&mut self) {
        TESTS.lock().unwrap().remove(&thread::current().id());
    }
}

/// Limits the duration of the present test. The parts of the harness that tests start with call it.
pub fn watch_test() {
    WATCHED_TEST.with(|test| {
        test.get_or_init(WatchedTest::start);
    });
}

fn end_hanging_test(timeout: Duration) {
    loop {
        thread::sleep(Duration::from_secs(1));
        let tests = TESTS.lock().unwrap();
        if let Some((name, _)) = tests.values().find(|(_, started_at)| started_at.elapsed() > timeout) {
            // Not by a macro: the output of this thread is that of the test that has started it, which is captured.
            _ = writeln!(stderr(), "the test {name} hangs: it has not ended after {} s", timeout.as_secs());
            std::process::exit(101);
        }
    }
}
