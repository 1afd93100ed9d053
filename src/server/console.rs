//! Starts the console: its listener, and the link of the demo.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::console::render::TemplateError;
use crate::console::{Console, router};
use crate::state::AppState;

/// The address of the demo's console, if no other program uses it.
const DEMO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3001);

/// The reason for which the console does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleStartError {
    #[error("cannot listen on {0} for the console: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error(
        "the setting console_listen ({0}) can be reached from other machines: set console_url to the address that users \
         see, https://…"
    )]
    NoUrl(SocketAddr),
    #[error("console_templates: {0}")]
    Template(#[from] TemplateError),
    #[error("cannot create the link of the demo: {0}")]
    Demo(String),
}

impl ConsoleStartError {
    /// Whether a setting is wrong: another start does not help.
    pub fn is_setting(&self) -> bool {
        matches!(self, Self::NoUrl(_) | Self::Template(_))
    }
}

/// Binds the listener of the console, if there is one. The demo has one, and prints a link that opens it.
pub(super) async fn start(
    state: &Arc<AppState>,
    demo: bool,
) -> Result<Option<(TcpListener, Router)>, ConsoleStartError> {
    let config = &state.config;
    let Some(listener) = bind(config, demo).await? else { return Ok(None) };
    let console = Arc::new(Console::new(state.clone())?);
    let address = listener.local_addr().map_err(|error| ConsoleStartError::Demo(error.to_string()))?;
    tracing::info!("console at http://{address}/");
    if demo && address.ip().is_loopback() && config.listen.ip().is_loopback() {
        let path = console.create_demo_link().await.map_err(|error| ConsoleStartError::Demo(error.to_string()))?;
        let line = match path {
            Some(path) => format!(
                "The console of the demo (the link is valid for 10 minutes and one login): http://{address}{path}\n"
            ),
            None if config.console_url.is_some() => {
                "With console_url, there is no link. An account of the console: mortise console add NAME\n".to_owned()
            }
            None => "The database is not the demo's. An account of the console: mortise console add NAME\n".to_owned(),
        };
        // On standard output, so that no log contains the link. A pipe that its reader does not read blocks the thread.
        tokio::task::spawn_blocking(move || {
            // The pipe can be closed.
            _ = std::io::stdout().write_all(line.as_bytes());
        });
    }
    Ok(Some((listener, router::build_service(console))))
}

async fn bind(config: &Config, demo: bool) -> Result<Option<TcpListener>, ConsoleStartError> {
    match config.console_listen {
        Some(address) if !address.ip().is_loopback() && config.console_url.is_none() => {
            Err(ConsoleStartError::NoUrl(address))
        }
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            listener.map(Some).map_err(|error| ConsoleStartError::Listen(address, error))
        }
        None if demo && config.listen.ip().is_loopback() => {
            if let Ok(listener) = TcpListener::bind(DEMO_ADDRESS).await {
                return Ok(Some(listener));
            }
            let any_port = SocketAddr::new(DEMO_ADDRESS.ip(), 0);
            let listener = TcpListener::bind(any_port).await;
            listener.map(Some).map_err(|error| ConsoleStartError::Listen(any_port, error))
        }
        None => Ok(None),
    }
}
