//! A real browser: Chromium, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::process::{Child, Command, Stdio};

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{LOOK, PATIENCE, product::free_port};

/// One window with a profile of its own. Everything ends with this value.
pub struct Browser {
    window: Client,
    driver: Child,
    profile: TempDir,
}

impl Browser {
    /// Opens a page.
    ///
    /// # Panics
    ///
    /// When there is no `chromedriver`, or the page does not load.
    pub async fn open(url: &str) -> Self {
        let port = free_port();
        let mut driver = Command::new("chromedriver");
        driver.args([format!("--port={port}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = driver.spawn();
        let driver = driver.expect("there is a chromedriver: `cargo xtask test` installs one");
        let profile = tempfile::tempdir().expect("a folder");
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            format!("--user-data-dir={}", profile.path().display()),
        ] });
        let wanted = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(wanted);
        let began = Instant::now();
        let window = loop {
            match builder.connect(&format!("http://127.0.0.1:{port}")).await {
                Ok(window) => break window,
                Err(error) => assert!(began.elapsed() < PATIENCE, "no window opens: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        };
        let browser = Self { window, driver, profile };
        browser.goto(url).await;
        browser
    }

    /// Opens another page.
    pub async fn goto(&self, url: &str) {
        self.window.goto(url).await.unwrap_or_else(|error| panic!("{url} does not load: {error}"));
    }

    /// Loads the page anew.
    pub async fn reload(&self) {
        self.window.refresh().await.expect("the page loads again");
    }

    /// Clicks what has this id.
    pub async fn click(&self, id: &str) {
        let element = self.window.find(Locator::Id(id)).await;
        let element = element.unwrap_or_else(|error| panic!("there is no {id}: {error}"));
        element.click().await.unwrap_or_else(|error| panic!("{id} cannot be clicked: {error}"));
    }

    /// A property of what has this id.
    pub async fn property(&self, id: &str, property: &str) -> Value {
        let script = "return document.getElementById(arguments[0])[arguments[1]]";
        let found = self.window.execute(script, vec![json!(id), json!(property)]).await;
        found.unwrap_or_else(|error| panic!("there is no {property} of {id}: {error}"))
    }

    /// The text of what has this id.
    pub async fn text(&self, id: &str) -> String {
        self.property(id, "textContent").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of what has this id is as wanted.
    ///
    /// # Panics
    ///
    /// When it is not in time.
    pub async fn text_becomes(&self, id: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = self.text(id).await;
            if wanted(&text) {
                return text;
            }
            assert!(began.elapsed() < PATIENCE, "{id} is still {text:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the page asked for and did not get.
    pub async fn failed_requests(&self) -> Vec<String> {
        let script = "return performance.getEntriesByType('resource')
            .filter(entry => entry.responseStatus >= 400).map(entry => entry.name)";
        let found = self.window.execute(script, vec![]).await.expect("a script runs");
        serde_json::from_value(found).expect("a list")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
        // The driver takes its browser with it when it is asked to end, but not one whose start it gave up.
        let profile = self.profile.path().display().to_string();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&profile) {
                let _ = Command::new("kill").arg("-9").arg(process.file_name()).status();
            }
        }
    }
}
