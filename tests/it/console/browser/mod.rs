//! The console in Chromium: a test types and clicks as an operator does, then looks at the page and the database. A
//! message of the browser about the content security policy fails each of these tests.

mod accessibility;
mod changes;
mod driver;
mod hostile;
mod login;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fantoccini::Locator;
use fantoccini::elements::Element;
use mortise::console::access::Role;
use mortise::server::listener;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::driver::{Session, start_browser};
use super::{ConsoleServer, Login, PASSWORD, current_code};
use crate::harness::with_timeout;

/// How long a page may take after a click.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A browser, and the console that it shows.
pub struct Browser {
    pub console: ConsoleServer,
    session: Session,
    address: SocketAddr,
}

/// The size and the colours of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub colours: &'static str,
}

/// A phone and a desktop, light and dark.
pub const VIEWS: [View; 4] = [
    View { width: 360, height: 740, colours: "light" },
    View { width: 360, height: 740, colours: "dark" },
    View { width: 1440, height: 900, colours: "light" },
    View { width: 1440, height: 900, colours: "dark" },
];

/// Sells two cards. The e-mail with one of them has failed.
async fn add_sales(console: &ConsoleServer) {
    for number in ["1111111001", "1111111002"] {
        let form = format!("u=accountant&id=6&number={number}");
        let sold = console.server.post_signed("card_from_group_sell", &form, "6").await;
        assert_eq!(sold.element_texts("number"), [number], "{}", sold.body);
    }
    let texts = "update payments set description = 'The first sale';
        insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error)
            values (0, 6, 'buyer@shop.test', 'a@b', '{2}', '{10}', 'USD', now() at time zone 'utc', '550 no such mailbox')";
    console.server.execute(texts).await;
}

impl Browser {
    /// Starts a browser. The console listens on a free port.
    pub async fn open(console: ConsoleServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, config) = (console.router.clone(), console.server.config.clone());
        tokio::spawn(async move { listener::serve(listener, router, &config, 100, CancellationToken::new()).await });
        let browser = Self { console, session: start_browser().await, address };
        browser.set_view(VIEWS[2]).await;
        browser
    }

    /// Ends the browser. Every test ends with it: it checks that the policy was not violated.
    pub async fn close(self) {
        self.assert_policy_held().await;
        self.session.close().await;
    }

    /// Asserts that the browser has stopped no code, style or request because of the policy, and that no script failed.
    pub async fn assert_policy_held(&self) {
        let log = self.session.take_log().await;
        let faults: Vec<_> =
            log.iter().filter(|entry| !["network", "recommendation"].contains(&entry.source.as_str())).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    /// Shows a page.
    pub async fn goto(&self, path: &str) {
        let url = format!("http://{}{path}", self.address);
        with_timeout(path, self.session.client.goto(&url)).await.unwrap();
    }

    /// The path of the page that is shown, with its query.
    pub async fn path(&self) -> String {
        let url = with_timeout("the address", self.session.client.current_url()).await.unwrap();
        url.as_str().split_once(&self.address.to_string()).unwrap().1.to_owned()
    }

    /// The visible text, with one space where it has white space.
    pub async fn text(&self) -> String {
        let text = self.run("return document.body ? document.body.innerText : ''").await;
        text.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until the visible text contains `text`.
    pub async fn assert_contains(&self, text: &str) {
        let started = Instant::now();
        loop {
            let visible = self.text().await;
            if visible.contains(text) {
                return;
            }
            assert!(started.elapsed() < WAIT_MAX, "no {text:?} on {}:\n{visible}", self.path().await);
        }
    }

    /// Waits until a page whose path begins like this is shown.
    pub async fn wait_for_path(&self, start: &str) {
        let started = Instant::now();
        while !self.path().await.starts_with(start) {
            let (path, text) = (self.path().await, self.text().await);
            assert!(started.elapsed() < WAIT_MAX, "{path} instead of {start}:\n{text}");
        }
    }

    /// The element that the selector names; the first one that is displayed.
    async fn find(&self, locator: Locator<'_>) -> Element {
        let elements = with_timeout("elements", self.session.client.find_all(locator)).await.unwrap();
        for element in elements {
            if with_timeout("an element", element.is_displayed()).await.unwrap() {
                return element;
            }
        }
        panic!("no {locator:?} on {}:\n{}", self.path().await, self.text().await);
    }

    /// Types into the first displayed field with this name.
    pub async fn fill(&self, name: &str, value: &str) {
        let field = self.find(Locator::Css(&format!("main [name=\"{name}\"]"))).await;
        with_timeout("typing", field.send_keys(value)).await.unwrap();
    }

    /// Types into a field of the details that are open.
    pub async fn fill_open(&self, name: &str, value: &str) {
        let field = self.find(Locator::Css(&format!("details[open] [name=\"{name}\"]"))).await;
        with_timeout("typing", field.send_keys(value)).await.unwrap();
    }

    /// Types a code that was not used yet into the details that are open.
    pub async fn fill_open_code(&self) {
        self.forget_last_code().await;
        self.fill_open("confirm", &current_code()).await;
    }

    /// Chooses a file of this machine. The field is not displayed in all browsers.
    pub async fn choose_file(&self, name: &str, file: &Path) {
        let selector = format!("main input[type=file][name=\"{name}\"]");
        let field = with_timeout("the file", self.session.client.find(Locator::Css(&selector))).await.unwrap();
        with_timeout("the file", field.send_keys(file.to_str().unwrap())).await.unwrap();
    }

    /// Sets the value of a field that keys cannot fill in the same way everywhere, such as a date.
    pub async fn set_value(&self, name: &str, value: &str) {
        self.run(&format!("document.querySelector('main [name=\"{name}\"]').value = '{value}'")).await;
    }

    /// Chooses an entry of a list.
    pub async fn choose(&self, name: &str, value: &str) {
        let field = self.find(Locator::Css(&format!("main select[name=\"{name}\"]"))).await;
        with_timeout("choosing", field.select_by_value(value)).await.unwrap();
    }

    /// Clicks the first displayed element with the selector.
    pub async fn click(&self, selector: &str) {
        let element = self.find(Locator::Css(selector)).await;
        with_timeout(selector, element.click()).await.unwrap();
    }

    /// Clicks the button, link or summary with exactly this text.
    pub async fn click_text(&self, text: &str) {
        let path = format!("//*[self::button or self::a or self::summary][normalize-space()={text:?}]");
        let element = self.find(Locator::XPath(&path)).await;
        with_timeout(text, element.click()).await.unwrap();
    }

    /// Types into several fields, by their names.
    pub async fn fill_all(&self, fields: &[(&str, &str)]) {
        for (name, value) in fields {
            self.fill(name, value).await;
        }
    }

    /// Types keys into the element that has the focus.
    pub async fn type_keys(&self, keys: &str) {
        let element = with_timeout("the focus", self.session.client.active_element()).await.unwrap();
        with_timeout("typing", element.send_keys(keys)).await.unwrap();
    }

    /// Runs a script in the page.
    pub async fn run(&self, script: &str) -> Value {
        with_timeout("a script", self.session.client.execute(script, Vec::new())).await.unwrap()
    }

    /// Runs a script that passes its result to the last argument.
    pub async fn run_async(&self, script: &str) -> Value {
        with_timeout("a script", self.session.client.execute_async(script, Vec::new())).await.unwrap()
    }

    /// Stops the scripts of the pages that follow.
    pub async fn switch_scripts_off(&self) {
        self.session.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    }

    /// Shows the page in this size, in these colours.
    pub async fn set_view(&self, view: View) {
        let View { width, height, colours } = view;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.session.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        self.session.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Stores the page as a picture in `target/console-screenshots`; returns its path.
    pub async fn take_screenshot(&self, name: &str) -> PathBuf {
        let picture = with_timeout("a picture", self.session.client.screenshot()).await.unwrap();
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("console-screenshots");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("{name}.png"));
        std::fs::write(&path, picture).unwrap();
        path
    }

    /// Creates an account, and logs in with its password and its second factor.
    pub async fn log_in(&self, role: Role) -> Login {
        let login = self.console.create_account(role, None, true).await;
        self.log_in_as(&login).await;
        login
    }

    /// Logs in with the account's password and its second factor.
    pub async fn log_in_as(&self, login: &Login) {
        self.goto("/login").await;
        self.fill_all(&[("name", &login.name), ("password", PASSWORD)]).await;
        if login.has_second_factor {
            self.forget_last_code().await;
            self.fill("code", &current_code()).await;
        }
        self.click_text("Log in").await;
        self.wait_for_path("/dashboard").await;
    }

    async fn forget_last_code(&self) {
        self.console.server.execute("update console_accounts set totp_last_step = null").await;
    }
}
