//! A mail server: SMTP over TCP, with AUTH and TLS if it is wanted, that takes e-mails, or refuses, stalls and dies as told.

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

/// Stands for the end of a message.
pub const MESSAGE_MARKER: &str = "(message)";

/// What it does in place of the usual.
#[derive(Clone, Copy, Debug)]
pub enum ScriptedAction {
    Respond(&'static str),
    /// Says nothing until all is as usual.
    Stall,
    /// Hangs up.
    Disconnect,
    /// Takes the e-mail and hangs up before it says so.
    AcceptAndDisconnect,
}

/// An e-mail that it took.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    pub from: String,
    pub to: String,
    /// As it came, with single line ends.
    pub message: String,
    pub encrypted: bool,
    pub authenticated: bool,
}

impl ReceivedMail {
    /// A header, put together where it was folded.
    pub fn header(&self, name: &str) -> Option<String> {
        let (head, _) = self.message.split_once("\n\n").unwrap();
        let head = head.replace("\n ", " ");
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    }
}

#[derive(Clone, Default)]
struct Manners {
    /// For each line in which the words stand; the greeting's line is empty, a message's is [`MESSAGE`].
    instead: Vec<(String, ScriptedAction)>,
    /// Demanded, once set.
    login: Option<(&'static str, &'static str)>,
    tls: Option<TlsAcceptor>,
    /// From the first byte on.
    only_tls: bool,
    /// E-mails over one connection. 0: any number.
    few: usize,
}

struct Shared {
    manners: watch::Sender<Manners>,
    lines: watch::Sender<Vec<String>>,
    taken: watch::Sender<Vec<ReceivedMail>>,
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
            manners: watch::Sender::default(),
            lines: watch::Sender::default(),
            taken: watch::Sender::default(),
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
                    connections.spawn(connection(stream, shared.clone()));
                }
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Nobody listens any more, and all connections are cut.
    pub async fn shut_down(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Listens again where it did.
    pub async fn restart(&mut self) {
        *self = Self::listen(self.address, self.shared.clone()).await.unwrap();
    }

    /// Listens on a port of its own instead, if it may.
    pub async fn move_to_port(&mut self, port: u16) -> std::io::Result<()> {
        *self = Self::listen(SocketAddr::from(([127, 0, 0, 1], port)), self.shared.clone()).await?;
        Ok(())
    }

    /// From now on, wherever these words stand.
    pub fn script_action(&self, words: &str, instead: ScriptedAction) {
        self.shared.manners.send_modify(|manners| manners.instead.push((words.to_owned(), instead)));
    }

    pub fn clear_script(&self) {
        self.shared.manners.send_modify(|manners| manners.instead.clear());
    }

    pub fn require_login(&self, name: &'static str, password: &'static str) {
        self.shared.manners.send_modify(|manners| manners.login = Some((name, password)));
    }

    /// Offers STARTTLS, or speaks TLS `only`; the certificate, for `localhost`.
    pub fn enable_tls(&self, only: bool) -> String {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        self.shared.manners.send_modify(|manners| {
            manners.tls = Some(Arc::new(config).into());
            manners.only_tls = only;
        });
        own.cert.pem()
    }

    /// So many e-mails over each connection, then it is told off.
    pub fn limit_mails_per_connection(&self, few: usize) {
        self.shared.manners.send_modify(|manners| manners.few = few);
    }

    /// All that it took, once they are so many.
    pub async fn wait_for_mails(&self, count: usize) -> Vec<ReceivedMail> {
        self.shared.taken.subscribe().wait_for(|taken| taken.len() >= count).await.unwrap().clone()
    }

    /// All that it has taken so far.
    pub fn received_mails(&self) -> Vec<ReceivedMail> {
        self.shared.taken.borrow().clone()
    }

    /// Until it has heard so many lines with these words.
    pub async fn wait_for_lines(&self, words: &str, count: usize) {
        let enough = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(words)).count() >= count;
        self.shared.lines.subscribe().wait_for(enough).await.unwrap();
    }

    /// Until so many clients are connected.
    pub async fn wait_for_connections(&self, count: usize) {
        self.shared.connections.subscribe().wait_for(|(now, _)| *now == count).await.unwrap();
    }

    /// The most connections that there were at once.
    pub fn peak_connections(&self) -> usize {
        self.shared.connections.borrow().1
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts itself while it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connections.send_modify(|(now, most)| (*now, *most) = (*now + 1, (*now + 1).max(*most)));
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.send_modify(|(now, _)| *now -= 1);
    }
}

/// An error is a client that went, or a command to die.
async fn connection(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let _open = Open::new(&shared);
    let Manners { tls, only_tls, .. } = shared.manners.borrow().clone();
    match (tls, only_tls) {
        (Some(tls), true) => Talk::new(tls.accept(stream).await?, &shared, true).hold(true).await.map(drop),
        (None, _) => Talk::new(stream, &shared, false).hold(true).await.map(drop),
        (Some(tls), false) => match Talk::new(stream, &shared, false).hold(true).await? {
            Some(stream) => Talk::new(tls.accept(stream).await?, &shared, true).hold(false).await.map(drop),
            None => Ok(()),
        },
    }
}

struct Talk<'a, S> {
    stream: BufReader<S>,
    shared: &'a Shared,
    encrypted: bool,
    logged_in: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Talk<'a, S> {
    fn new(stream: S, shared: &'a Shared, encrypted: bool) -> Self {
        Self { stream: BufReader::new(stream), shared, encrypted, logged_in: false }
    }

    async fn read(&mut self) -> std::io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.stream.read_line(&mut line).await? > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn say(&mut self, words: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("{words}\r\n").as_bytes()).await?;
        self.stream.get_mut().flush().await
    }

    /// What was ordered for such a line, if anything.
    fn ordered(&self, line: &str) -> Option<ScriptedAction> {
        let manners = self.shared.manners.borrow();
        let fits =
            |words: &str| if line.is_empty() { words.is_empty() } else { !words.is_empty() && line.contains(words) };
        manners.instead.iter().find(|(words, _)| fits(words)).map(|(_, instead)| *instead)
    }

    /// Does it; `true` where all has been said.
    async fn instead(&mut self, line: &str) -> std::io::Result<bool> {
        match self.ordered(line) {
            None => Ok(false),
            Some(ScriptedAction::Respond(words)) => self.say(words).await.map(|()| true),
            Some(ScriptedAction::Stall) => {
                let _ = self.shared.manners.subscribe().wait_for(|manners| manners.instead.is_empty()).await;
                Ok(false)
            }
            Some(ScriptedAction::Disconnect | ScriptedAction::AcceptAndDisconnect) => {
                Err(std::io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Talks until the client leaves, or wants to go on over TLS.
    async fn hold(mut self, greet: bool) -> std::io::Result<Option<S>> {
        if greet && !self.instead("").await? {
            self.say("220 mail.test ESMTP").await?;
        }
        let (mut from, mut to, mut count) = (String::new(), String::new(), 0);
        while let Some(line) = self.read().await? {
            self.shared.lines.send_modify(|lines| lines.push(line.clone()));
            let manners = self.shared.manners.borrow().clone();
            let command = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
            if self.instead(&line).await? {
                continue;
            }
            match command.as_str() {
                "EHLO" => {
                    let mut said = vec!["mail.test"];
                    said.extend((manners.tls.is_some() && !self.encrypted).then_some("STARTTLS"));
                    said.extend(manners.login.map(|_| "AUTH PLAIN LOGIN"));
                    said.push("8BITMIME");
                    let last = said.len() - 1;
                    for (at, word) in said.iter().enumerate() {
                        self.say(&format!("250{}{word}", if at == last { ' ' } else { '-' })).await?;
                    }
                }
                "STARTTLS" => {
                    self.say("220 go ahead").await?;
                    return Ok(Some(self.stream.into_inner()));
                }
                "AUTH" => {
                    self.logged_in = manners.login.is_some_and(|(name, password)| {
                        line == format!("AUTH PLAIN {}", base64(&format!("\0{name}\0{password}")))
                    });
                    self.say(if self.logged_in { "235 welcome" } else { "535 5.7.8 wrong: AUTH quoted" }).await?;
                }
                "MAIL" if manners.login.is_some() && !self.logged_in => self.say("530 5.7.0 log in first").await?,
                "MAIL" if manners.few > 0 && count == manners.few => self.say("421 enough for once").await?,
                "MAIL" => {
                    count += 1;
                    from = address(&line);
                    self.say("250 ok").await?;
                }
                "RCPT" => {
                    to = address(&line);
                    self.say("250 ok").await?;
                }
                "DATA" => {
                    self.say("354 go on").await?;
                    self.take(&from, &to).await?;
                }
                "QUIT" => {
                    self.say("221 bye").await?;
                    return Ok(None);
                }
                _ => self.say("250 ok").await?,
            }
        }
        Ok(None)
    }

    async fn take(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        let mut message = String::new();
        loop {
            let Some(line) = self.read().await? else { return Ok(()) };
            if line == "." {
                break;
            }
            message += line.strip_prefix('.').unwrap_or(&line);
            message.push('\n');
        }
        let (from, to, encrypted, logged_in) = (from.to_owned(), to.to_owned(), self.encrypted, self.logged_in);
        let taken = ReceivedMail { from, to, message, encrypted, authenticated: logged_in };
        self.shared.lines.send_modify(|lines| lines.push(MESSAGE_MARKER.into()));
        if let Some(ScriptedAction::AcceptAndDisconnect) = self.ordered(MESSAGE_MARKER) {
            self.shared.taken.send_modify(|all| all.push(taken));
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        if self.instead(MESSAGE_MARKER).await? {
            return Ok(());
        }
        self.shared.taken.send_modify(|all| all.push(taken));
        self.say("250 taken").await
    }
}

fn address(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            encoded.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    encoded
}
