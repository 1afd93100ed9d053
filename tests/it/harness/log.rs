//! What the server logs while a test watches.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use mortise::telemetry::log::HumanFormatter;
use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing_subscriber::fmt::MakeWriter;

/// Everything that is logged on the test's own thread, where its server runs too.
pub struct LogCapture {
    text: Text,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl LogCapture {
    pub fn start() -> Self {
        // While a subscriber is the only one, a line that another thread is the first to log is taken for one that nobody wants.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
        LazyLock::force(&ANOTHER);
        let text = Text::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        let _guard = tracing::subscriber::set_default(
            subscriber.event_format(HumanFormatter::new(false)).with_writer(text.clone()).finish(),
        );
        Self { text, _guard }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.0.lock().unwrap()).into_owned()
    }

    /// How often these words were logged.
    pub fn count(&self, words: &str) -> usize {
        self.text().matches(words).count()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
