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
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::key::Key;
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

/// Keys.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
/// More than a page has elements that can have the focus.
const FOCUS_STOPS_MAX: usize = 150;

/// A browser, and the console that it shows.
pub struct Browser {
    pub console: ConsoleServer,
    session: Session,
    address: SocketAddr,
    has_mouse: bool,
}

/// How a task is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    Mouse,
    /// With a mouse, without JavaScript.
    MouseWithoutScripts,
    /// The keyboard alone, except to choose a file and an entry of a list: dialogs of the operating system.
    Keyboard,
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
        let browser = Self { console, session: start_browser().await, address, has_mouse: true };
        browser.set_view(VIEWS[2]).await;
        browser
    }

    /// Starts a browser that does tasks by these means.
    pub async fn open_with(console: ConsoleServer, means: Means) -> Self {
        let mut browser = Self::open(console).await;
        match means {
            Means::Mouse => {}
            Means::MouseWithoutScripts => browser.switch_scripts_off().await,
            Means::Keyboard => browser.has_mouse = false,
        }
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

    /// Presses Tab until the element has the focus, and the arrow key among radio buttons: only one of them is a stop.
    async fn move_focus_to(&self, element: &Element) {
        let element = serde_json::to_value(element).unwrap();
        let state = "const [wanted, focus] = [arguments[0], document.activeElement];
            const isGroup = wanted.type === 'radio' && focus.type === 'radio' && wanted.name === focus.name
                && wanted.form === focus.form;
            return wanted === focus ? 'reached' : isGroup ? 'group' : 'elsewhere'";
        for _ in 0..FOCUS_STOPS_MAX {
            let state = self.session.client.execute(state, vec![element.clone()]);
            match with_timeout("the focus", state).await.unwrap().as_str().unwrap() {
                "reached" => return,
                "group" => self.press(Key::Down).await,
                _ => self.press(Key::Tab).await,
            }
        }
        panic!("the keyboard does not reach {element} on {}:\n{}", self.path().await, self.text().await);
    }

    /// Clicks an element, or presses the key that does the same. Waits for the page to which a link or a form leads.
    async fn activate(&self, element: Element) {
        let leads_to_page = "return arguments[0].matches('a[href], button:not([type=button])')";
        let argument = serde_json::to_value(&element).unwrap();
        let leads_to_page = self.session.client.execute(leads_to_page, vec![argument]);
        if with_timeout("an element", leads_to_page).await.unwrap() == true {
            self.follow(self.activate_in_place(element)).await;
        } else {
            self.activate_in_place(element).await;
        }
    }

    async fn activate_in_place(&self, element: Element) {
        if self.has_mouse {
            return with_timeout("a click", element.click()).await.unwrap();
        }
        self.move_focus_to(&element).await;
        let is_box = matches!(element.attr("type").await.unwrap().as_deref(), Some("radio" | "checkbox"));
        self.press(if is_box { Key::Space } else { Key::Enter }).await;
    }

    /// Does what leads to another page, and waits until that page is loaded. The driver can return before the browser
    /// begins to load the page: the next command would meet the page before.
    async fn follow(&self, act: impl Future<Output = ()>) {
        let state = "return [performance.timeOrigin, document.readyState]";
        let before = self.run(state).await;
        act.await;
        let started = Instant::now();
        loop {
            let state = self.run(state).await;
            if state[0] != before[0] && state[1] == "complete" {
                return;
            }
            assert!(started.elapsed() < WAIT_MAX, "no page follows {}:\n{}", self.path().await, self.text().await);
        }
    }

    /// Types into a field, in place of its text: the Tab key selects it.
    async fn type_into(&self, field: Element, value: &str) {
        match self.has_mouse {
            true => with_timeout("a field", field.clear()).await.unwrap(),
            false => self.move_focus_to(&field).await,
        }
        with_timeout("typing", field.send_keys(value)).await.unwrap();
    }

    /// Types into the first displayed field with this name.
    pub async fn fill(&self, name: &str, value: &str) {
        let field = self.find(Locator::Css(&format!("main [name=\"{name}\"]"))).await;
        self.type_into(field, value).await;
    }

    /// Types into a field of the details that are open.
    pub async fn fill_open(&self, name: &str, value: &str) {
        let field = self.find(Locator::Css(&format!("details[open] [name=\"{name}\"]"))).await;
        self.type_into(field, value).await;
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

    /// Gives the first displayed element with the selector the focus.
    pub async fn focus(&self, selector: &str) {
        let element = self.find(Locator::Css(selector)).await;
        match self.has_mouse {
            true => with_timeout(selector, element.click()).await.unwrap(),
            false => self.move_focus_to(&element).await,
        }
    }

    /// Clicks the first displayed element with the selector.
    pub async fn click(&self, selector: &str) {
        self.activate(self.find(Locator::Css(selector)).await).await;
    }

    /// Clicks the button, link or summary with exactly this text.
    pub async fn click_text(&self, text: &str) {
        let path = format!("//*[self::button or self::a or self::summary][normalize-space()={text:?}]");
        self.activate(self.find(Locator::XPath(&path)).await).await;
    }

    /// Types into several fields, by their names.
    pub async fn fill_all(&self, fields: &[(&str, &str)]) {
        for (name, value) in fields {
            self.fill(name, value).await;
        }
    }

    /// Types keys into the element that has the focus. Waits for the page to which the Enter key leads.
    pub async fn type_keys(&self, keys: &str) {
        if keys.ends_with(ENTER) {
            self.follow(self.type_keys_in_place(keys)).await;
        } else {
            self.type_keys_in_place(keys).await;
        }
    }

    async fn type_keys_in_place(&self, keys: &str) {
        let element = with_timeout("the focus", self.session.client.active_element()).await.unwrap();
        with_timeout("typing", element.send_keys(keys)).await.unwrap();
    }

    /// Presses a key. Unlike [`type_keys`](Self::type_keys), it is no input of a field for files.
    async fn press(&self, key: Key) {
        let value = char::from(key);
        let keys = KeyActions::new("keyboard".to_owned()).then(KeyAction::Down { value }).then(KeyAction::Up { value });
        with_timeout("a key", self.session.client.perform_actions(keys)).await.unwrap();
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
