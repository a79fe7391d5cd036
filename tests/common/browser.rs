//! A headless Chromium of the test's own, driven over WebDriver. Dropping it ends the browser and its driver and removes the profile.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use thirtyfour::components::SelectElement;
use thirtyfour::prelude::*;
use thirtyfour::{ChromiumLikeCapabilities, LoggingPrefsLogLevel};
use tokio::runtime::Runtime;
use tokio::time::{timeout, timeout_at};

/// All that a test does with its browser is over by then, or the test has failed: sooner than nextest ends it, so that it cleans up.
const DEADLINE: Duration = Duration::from_secs(120);
/// For one thing to show on the page.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Nothing but the page is asked of the network, and nothing of the machine's display, keyring or user is used.
const ARGUMENTS: [&str; 15] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-proxy-server",
    "--password-store=basic",
    "--lang=en-US",
    "--hide-scrollbars",
    "--window-size=1280,800",
];

/// A page in a browser.
pub struct Browser {
    runtime: Runtime,
    session: Option<WebDriver>,
    driver: Child,
    home: TempDir,
    origin: String,
    until: Instant,
}

impl Browser {
    /// Starts a browser and loads `path` of `origin` (`http://127.0.0.1:1234`).
    pub fn open(origin: &str, path: &str) -> Self {
        let chromium = program("chromium", "chromium");
        let home = tempfile::Builder::new().prefix("kmsfs-browser-").tempdir().expect("a temporary directory");
        let (driver, port) = start_driver(home.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let until = Instant::now() + DEADLINE;
        let mut new = Self { runtime, session: None, driver, home, origin: origin.to_owned(), until };
        let mut wanted = DesiredCapabilities::chrome();
        let prepared = (|| {
            wanted.set_binary(&chromium.to_string_lossy())?;
            for argument in ARGUMENTS {
                wanted.add_arg(argument)?;
            }
            wanted.add_arg(&format!("--user-data-dir={}", new.profile().display()))?;
            wanted.set_logging_prefs("browser", LoggingPrefsLogLevel::All)?;
            wanted.set_logging_prefs("performance", LoggingPrefsLogLevel::All)
        })();
        prepared.expect("capabilities");
        // Whatever proxy is set is for other things than a driver on this machine.
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 2).build().expect("an HTTP client");
        let started = WebDriver::builder(format!("http://127.0.0.1:{port}"), wanted).client(client);
        new.session = Some(new.run("the browser starts", async { started.await }));
        new.run("the page loads", new.session().goto(format!("{origin}{path}")));
        new.wait_until_connected();
        new
    }

    pub fn reload(&self) {
        self.run("the page loads again", self.session().refresh());
        self.wait_until_connected();
    }

    /// Then it has shown what it was told.
    fn wait_until_connected(&self) {
        self.wait_for("the page is connected", |page| page.attribute("connection", "data-state") == "connected");
    }

    /// Clicks the element with this `data-testid`.
    pub fn click(&self, id: &str) {
        self.run(&format!("{id} is clicked"), async { self.session().find(By::Testid(id)).await?.click().await });
    }

    /// Types over what the field holds.
    pub fn fill(&self, id: &str, text: &str) {
        self.run(&format!("{id} is filled in"), async {
            let field = self.session().find(By::Testid(id)).await?;
            field.clear().await?;
            field.send_keys(text).await
        });
    }

    /// Chooses the option with this value.
    pub fn choose(&self, id: &str, value: &str) {
        self.run(&format!("{value} is chosen in {id}"), async {
            let list = self.session().find(By::Testid(id)).await?;
            SelectElement::new(&list).await?.select_by_value(value).await
        });
    }

    /// The text that can be seen of an element, empty while it is hidden or not there.
    pub fn text(&self, id: &str) -> String {
        let script = "const found = document.querySelector(arguments[0]); return found?.checkVisibility() ? found.innerText : ''";
        self.ask(script, vec![by_testid(id)]).as_str().expect("a text").to_owned()
    }

    /// Empty if there is none.
    pub fn attribute(&self, id: &str, name: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? ''";
        self.ask(script, vec![by_testid(id), name.into()]).as_str().expect("a text").to_owned()
    }

    /// Whether a button cannot be clicked.
    pub fn disabled(&self, id: &str) -> bool {
        let script = "return document.querySelector(arguments[0]).disabled";
        self.ask(script, vec![by_testid(id)]).as_bool().expect("a button")
    }

    /// How many elements a CSS selector finds that can be seen.
    pub fn count(&self, css: &str) -> u64 {
        let script =
            "return [...document.querySelectorAll(arguments[0])].filter((found) => found.checkVisibility()).length";
        self.ask(script, vec![css.into()]).as_u64().expect("a number")
    }

    /// What a script in the page returns.
    pub fn evaluate(&self, script: &str) -> Value {
        self.ask(script, Vec::new())
    }

    /// In one step, so that the page cannot change between finding an element and looking at it.
    fn ask(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.run(script, async { Ok(self.session().execute(script, arguments).await?.json().clone()) })
    }

    /// Looks until it holds; fails with `what` if it does not in time.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.visible_text());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub fn wait_for_text(&self, id: &str, text: &str) {
        self.wait_for(&format!("{id} says {text:?}"), |page| page.text(id).contains(text));
    }

    /// Makes the page this large, in CSS pixels, whatever the window needs around it.
    pub fn resize(&self, width: u32, height: u32) {
        let around = self.evaluate("return [outerWidth - innerWidth, outerHeight - innerHeight]");
        let side = |at: usize| around[at].as_u64().expect("a length") as u32;
        self.run("the window changes", self.session().set_window_rect(0, 0, width + side(0), height + side(1)));
    }

    /// What the browser shows, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        self.run("a screenshot", self.session().screenshot_as_png())
    }

    /// Fails if a script met an error, if something could not be loaded, or if anything but the page's own origin was asked.
    pub fn assert_no_trouble(&self) {
        let log = self.run("the browser's log", self.session().browser_log());
        let errors: Vec<String> =
            log.iter().filter(|entry| entry.level == "SEVERE").map(|entry| entry.message.clone()).collect();
        assert!(errors.is_empty(), "errors in the browser: {errors:#?}");
        let asked = self.requests();
        assert!(asked.iter().any(|url| url.ends_with("/app.js")), "the browser tells what it asks for: {asked:?}");
        let elsewhere = |url: &&String| !url.starts_with(&format!("{}/", self.origin)) && !url.starts_with("data:");
        let elsewhere: Vec<&String> = asked.iter().filter(elsewhere).collect();
        assert!(elsewhere.is_empty(), "requests to another origin: {elsewhere:#?}");
    }

    /// Addresses of all requests of the page since the last look, those that failed or were forbidden included.
    fn requests(&self) -> Vec<String> {
        let log = self.run("the network log", self.session().get_log("performance"));
        let events = log.iter().map(|entry| serde_json::from_str::<Value>(&entry.message).expect("an event"));
        let sent =
            events.map(|mut event| event["message"].take()).filter(|it| it["method"] == "Network.requestWillBeSent");
        let text = |value: &Value| value.as_str().expect("an address").to_owned();
        let sent = sent.map(|event| (text(&event["params"]["documentURL"]), text(&event["params"]["request"]["url"])));
        // The page that the browser starts with is its own.
        sent.filter(|(page, _)| !page.starts_with("chrome")).map(|(_, url)| url).collect()
    }

    /// For messages of tests that fail.
    fn visible_text(&self) -> String {
        self.evaluate("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    fn session(&self) -> &WebDriver {
        self.session.as_ref().expect("it has started")
    }

    fn profile(&self) -> PathBuf {
        self.home.path().join("profile")
    }

    /// Every command to the browser: within the deadline, or the test fails with `what`.
    fn run<T>(&self, what: &str, command: impl Future<Output = WebDriverResult<T>>) -> T {
        match self.runtime.block_on(async { timeout_at(self.until.into(), command).await }) {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => panic!("{what}: {error}"),
            Err(_) => panic!("the test has not ended within {DEADLINE:?}: {what}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let rest = session.clone();
            let quit = self.runtime.block_on(async { timeout(Duration::from_secs(5), session.quit()).await });
            if !matches!(quit, Ok(Ok(()))) {
                // Or its own drop would ask the driver once more.
                let _ = rest.leak();
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // The browser is a child of the driver, and lives on where the driver was not asked to end it.
        let until = Instant::now() + Duration::from_secs(5);
        while end_processes_of(&self.profile()) && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn by_testid(id: &str) -> Value {
    format!("[data-testid=\"{id}\"]").into()
}

/// The driver and the port on which it listens. Its own files and those of the browser come below `home`.
fn start_driver(home: &Path) -> (Child, u16) {
    let mut command = Command::new(program("chromedriver", "chromium-driver"));
    for (name, directory) in [
        ("HOME", "home"),
        ("TMPDIR", "tmp"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_RUNTIME_DIR", "run"),
    ] {
        std::fs::create_dir(home.join(directory)).expect("a directory");
        command.env(name, home.join(directory));
    }
    let mut driver = command
        .arg("--port=0")
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .env_remove("DISPLAY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("chromedriver runs");
    let output = driver.stdout.take().expect("it is piped");
    let (send, receive) = std::sync::mpsc::channel();
    // To the end of the output, or the driver would wait for somebody who reads.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let port = line.split_once("started successfully on port ").map(|(_, port)| port.trim_end_matches('.'));
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                let _ = send.send(port);
            }
        }
    });
    match receive.recv_timeout(PATIENCE) {
        Ok(port) => (driver, port),
        Err(_) => {
            let _ = driver.kill();
            let _ = driver.wait();
            panic!("chromedriver names no port within {PATIENCE:?}");
        }
    }
}

/// A program of this machine. Without it nothing here can be tested, which is a failure, not a reason to skip.
fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} is not installed (Debian package {package}); the console is tested in a browser: \
             apt-get install chromium chromium-driver"
        )
    })
}

/// Kills what was started with this profile; false if there was nothing.
fn end_processes_of(profile: &Path) -> bool {
    let profile = format!("--user-data-dir={}", profile.display());
    let mut found = false;
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|argument| argument == profile.as_bytes()) {
            let _ = kill_process(pid, Signal::KILL);
            found = true;
        }
    }
    found
}
