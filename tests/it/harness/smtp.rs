//! An SMTP server for tests, optionally with AUTH and TLS. It accepts e-mails, or refuses, stalls and disconnects as
//! scripted.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Represents the end of a message, in scripts and in the recorded lines.
pub const MESSAGE_MARKER: &str = "(message)";

/// What the server does instead of its normal reply.
#[derive(Clone, Copy, Debug)]
pub enum ScriptedAction {
    Respond(&'static str),
    /// Sends nothing until the script is cleared, then the normal reply.
    Stall,
    /// Closes the connection.
    Disconnect,
    /// Sends a line without an end.
    Flood,
    /// Accepts the e-mail and closes the connection without a reply.
    AcceptAndDisconnect,
}

/// An e-mail that the server accepted.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    pub from: String,
    pub to: String,
    /// As received, with `\n` as line end.
    pub message: String,
    pub encrypted: bool,
    pub authenticated: bool,
}

impl ReceivedMail {
    /// The value of a header, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let (head, _) = self.message.split_once("\n\n").unwrap();
        let head = head.replace("\n ", " ");
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    }
}

#[derive(Clone, Default)]
struct Behavior {
    /// Actions for lines that contain a text. The empty text is for the greeting, [`MESSAGE_MARKER`] for the end of a
    /// message.
    script: Vec<(String, ScriptedAction)>,
    /// User name and password that clients must send; `None`: no AUTH.
    login: Option<(&'static str, &'static str)>,
    tls: Option<TlsAcceptor>,
    /// TLS from the first byte instead of STARTTLS.
    implicit_tls: bool,
    /// E-mails per connection. 0: unlimited.
    mails_max: usize,
}

struct Shared {
    behavior: watch::Sender<Behavior>,
    lines: watch::Sender<Vec<String>>,
    mails: watch::Sender<Vec<ReceivedMail>>,
    /// Current number of connections, and its peak.
    connections: watch::Sender<(usize, usize)>,
}

pub struct MailServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl MailServer {
    pub async fn start() -> Self {
        let shared = Shared {
            behavior: watch::Sender::default(),
            lines: watch::Sender::default(),
            mails: watch::Sender::default(),
            connections: watch::Sender::default(),
        };
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(shared)).await.unwrap()
    }

    async fn listen(address: SocketAddr, shared: Arc<Shared>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, shared.clone()));
                }
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Stops listening and closes all connections.
    pub async fn shut_down(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Listens again on the same address.
    pub async fn restart(&mut self) {
        *self = Self::listen(self.address, self.shared.clone()).await.unwrap();
    }

    /// Listens on this port instead.
    ///
    /// # Errors
    /// If the port can't be bound.
    pub async fn move_to_port(&mut self, port: u16) -> std::io::Result<()> {
        *self = Self::listen(SocketAddr::from(([127, 0, 0, 1], port)), self.shared.clone()).await?;
        Ok(())
    }

    /// Performs `action` for each line that contains `text`: `""` for the greeting, [`MESSAGE_MARKER`] for the end of a
    /// message.
    pub fn script_action(&self, text: &str, action: ScriptedAction) {
        self.shared.behavior.send_modify(|behavior| behavior.script.push((text.to_owned(), action)));
    }

    pub fn clear_script(&self) {
        self.shared.behavior.send_modify(|behavior| behavior.script.clear());
    }

    pub fn require_login(&self, name: &'static str, password: &'static str) {
        self.shared.behavior.send_modify(|behavior| behavior.login = Some((name, password)));
    }

    /// Offers STARTTLS, or implicit TLS; returns the PEM of its certificate, for `localhost`.
    pub fn enable_tls(&self, implicit: bool) -> String {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        self.shared.behavior.send_modify(|behavior| {
            behavior.tls = Some(Arc::new(config).into());
            behavior.implicit_tls = implicit;
        });
        certified.cert.pem()
    }

    /// Accepts `limit` e-mails per connection and refuses further ones with the code 421.
    pub fn limit_mails_per_connection(&self, limit: usize) {
        self.shared.behavior.send_modify(|behavior| behavior.mails_max = limit);
    }

    /// Waits for `count` e-mails; returns all received so far.
    pub async fn wait_for_mails(&self, count: usize) -> Vec<ReceivedMail> {
        self.shared.mails.subscribe().wait_for(|mails| mails.len() >= count).await.unwrap().clone()
    }

    /// The e-mails received so far.
    pub fn received_mails(&self) -> Vec<ReceivedMail> {
        self.shared.mails.borrow().clone()
    }

    /// Waits until the server has received `count` lines that contain `text`.
    pub async fn wait_for_lines(&self, text: &str, count: usize) {
        let enough = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).count() >= count;
        self.shared.lines.subscribe().wait_for(enough).await.unwrap();
    }

    /// Waits until exactly `count` clients are connected.
    pub async fn wait_for_connections(&self, count: usize) {
        self.shared.connections.subscribe().wait_for(|(current, _)| *current == count).await.unwrap();
    }

    /// The highest number of concurrent connections.
    pub fn peak_connections(&self) -> usize {
        self.shared.connections.borrow().1
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection while it is open.
struct ConnectionGuard(Arc<Shared>);

impl ConnectionGuard {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connections.send_modify(|(current, peak)| (*current, *peak) = (*current + 1, (*current + 1).max(*peak)));
        Self(shared.clone())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.send_modify(|(current, _)| *current -= 1);
    }
}

/// Serves a connection. An error means that the client has disconnected, or that the script closes the connection.
async fn serve(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let _guard = ConnectionGuard::new(&shared);
    let Behavior { tls, implicit_tls, .. } = shared.behavior.borrow().clone();
    match (tls, implicit_tls) {
        (Some(tls), true) => Session::new(tls.accept(stream).await?, &shared, true).run(true).await.map(drop),
        (None, _) => Session::new(stream, &shared, false).run(true).await.map(drop),
        (Some(tls), false) => match Session::new(stream, &shared, false).run(true).await? {
            Some(stream) => Session::new(tls.accept(stream).await?, &shared, true).run(false).await.map(drop),
            None => Ok(()),
        },
    }
}

struct Session<'a, S> {
    stream: BufReader<S>,
    shared: &'a Shared,
    encrypted: bool,
    authenticated: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(stream: S, shared: &'a Shared, encrypted: bool) -> Self {
        Self { stream: BufReader::new(stream), shared, encrypted, authenticated: false }
    }

    async fn read_line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.stream.read_line(&mut line).await? > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn send(&mut self, reply: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await?;
        self.stream.get_mut().flush().await
    }

    /// The scripted action for a line.
    fn scripted_action(&self, line: &str) -> Option<ScriptedAction> {
        let behavior = self.shared.behavior.borrow();
        let matches =
            |text: &str| if line.is_empty() { text.is_empty() } else { !text.is_empty() && line.contains(text) };
        behavior.script.iter().find(|(text, _)| matches(text)).map(|(_, action)| *action)
    }

    /// Performs the scripted action for a line. `true`: it has sent the reply.
    async fn run_script(&mut self, line: &str) -> std::io::Result<bool> {
        match self.scripted_action(line) {
            None => Ok(false),
            Some(ScriptedAction::Respond(reply)) => self.send(reply).await.map(|()| true),
            Some(ScriptedAction::Stall) => {
                let _ = self.shared.behavior.subscribe().wait_for(|behavior| behavior.script.is_empty()).await;
                Ok(false)
            }
            Some(ScriptedAction::Flood) => loop {
                self.stream.get_mut().write_all(&[b'2'; 64 * 1024]).await?;
            },
            Some(ScriptedAction::Disconnect | ScriptedAction::AcceptAndDisconnect) => {
                Err(std::io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Runs until the client disconnects, or returns the stream for STARTTLS.
    async fn run(mut self, send_greeting: bool) -> std::io::Result<Option<S>> {
        if send_greeting && !self.run_script("").await? {
            self.send("220 mail.test ESMTP").await?;
        }
        let (mut from, mut to, mut count) = (String::new(), String::new(), 0);
        while let Some(line) = self.read_line().await? {
            self.shared.lines.send_modify(|lines| lines.push(line.clone()));
            let behavior = self.shared.behavior.borrow().clone();
            let command = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
            if self.run_script(&line).await? {
                continue;
            }
            match command.as_str() {
                "EHLO" => {
                    let mut lines = vec!["mail.test"];
                    lines.extend((behavior.tls.is_some() && !self.encrypted).then_some("STARTTLS"));
                    lines.extend(behavior.login.map(|_| "AUTH PLAIN LOGIN"));
                    lines.push("8BITMIME");
                    let last = lines.len() - 1;
                    for (index, line) in lines.iter().enumerate() {
                        self.send(&format!("250{}{line}", if index == last { ' ' } else { '-' })).await?;
                    }
                }
                "STARTTLS" => {
                    self.send("220 go ahead").await?;
                    return Ok(Some(self.stream.into_inner()));
                }
                "AUTH" => {
                    self.authenticated = behavior.login.is_some_and(|(name, password)| {
                        line == format!("AUTH PLAIN {}", base64(&format!("\0{name}\0{password}")))
                    });
                    self.send(if self.authenticated { "235 welcome" } else { "535 5.7.8 wrong: AUTH quoted" }).await?;
                }
                "MAIL" if behavior.login.is_some() && !self.authenticated => {
                    self.send("530 5.7.0 log in first").await?
                }
                "MAIL" if behavior.mails_max > 0 && count == behavior.mails_max => {
                    self.send("421 too many messages").await?
                }
                "MAIL" => {
                    count += 1;
                    from = address(&line);
                    self.send("250 ok").await?;
                }
                "RCPT" => {
                    to = address(&line);
                    self.send("250 ok").await?;
                }
                "DATA" => {
                    self.send("354 go on").await?;
                    self.receive_message(&from, &to).await?;
                }
                "QUIT" => {
                    self.send("221 bye").await?;
                    return Ok(None);
                }
                _ => self.send("250 ok").await?,
            }
        }
        Ok(None)
    }

    async fn receive_message(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        let mut message = String::new();
        loop {
            let Some(line) = self.read_line().await? else { return Ok(()) };
            if line == "." {
                break;
            }
            message += line.strip_prefix('.').unwrap_or(&line);
            message.push('\n');
        }
        let (from, to, encrypted, authenticated) = (from.to_owned(), to.to_owned(), self.encrypted, self.authenticated);
        let mail = ReceivedMail { from, to, message, encrypted, authenticated };
        self.shared.lines.send_modify(|lines| lines.push(MESSAGE_MARKER.into()));
        if let Some(ScriptedAction::AcceptAndDisconnect) = self.scripted_action(MESSAGE_MARKER) {
            self.shared.mails.send_modify(|mails| mails.push(mail));
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        if self.run_script(MESSAGE_MARKER).await? {
            return Ok(());
        }
        self.shared.mails.send_modify(|mails| mails.push(mail));
        self.send("250 accepted").await
    }
}

fn address(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * position) & 63) as usize];
            encoded.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    encoded
}
