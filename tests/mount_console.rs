//! The console of the mock KMS in a real browser: what is clicked there is felt on a mount, and what the mount does is seen there.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use browser::Browser;
use common::io::pattern;
use common::{AES, Mounted, Setup, Suite, wait_until, within};

/// Keys are asked for anew at each open, and a refusal is soon forgotten.
const FORGETFUL: &str = "[kms]\ntimeout_ms = 700\n[keys]\ndeadline = \"2s\"\nnegative_ttl = \"100ms\"\n";
const PATIENCE: Duration = Duration::from_secs(30);
/// The file of [`with_a_cold_file`].
const LEN: usize = 50_000;

fn main() -> std::process::ExitCode {
    // The driver is asked over plain HTTP, but its client insists on a choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Suite::default()
        .on(
            &[AES],
            bodies![
                a_key_is_switched_off_and_on,
                a_key_is_rotated,
                a_fault_strikes_until_it_is_cleared,
                the_clock_is_moved,
                two_languages,
                nothing_is_asked_of_another_site,
            ],
        )
        .run()
}

/// A mount with a file whose key nobody holds.
fn with_a_cold_file(setup: &Setup) -> Mounted {
    let mut m = Mounted::with_config(setup, FORGETFUL);
    fs::write(m.path("cold"), pattern(1, LEN)).unwrap();
    m.remount();
    m
}

fn console(m: &Mounted) -> Browser {
    Browser::open(&m.kms().endpoint(), "/__mock/console/")
}

/// What a user sees who reads a file.
fn cat(m: &Mounted, name: &str) -> Output {
    let path = m.path(name);
    within("the end of cat", PATIENCE, move || {
        Command::new("cat").arg(path).env("LC_ALL", "C").output().expect("cat runs")
    })
}

fn assert_refused(output: &Output, why: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains(why), "{:?}: {errors}", output.status);
}

/// Once the mount has forgotten a refusal, the right bytes.
fn wait_until_readable(m: &Mounted) {
    wait_until("the file can be read again", PATIENCE, || {
        let output = cat(m, "cold");
        assert!(!output.status.success() || output.stdout == pattern(1, LEN), "other bytes");
        output.status.success()
    });
}

fn a_key_is_switched_off_and_on(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let page = console(&m);
    let id = &m.key_id;
    let (state, refusals) =
        (format!("key-state-{id}"), r#"[data-testid=call-row][data-api=decrypt][data-code="KMS.0206"]"#);
    assert_eq!(page.text(&state), "Enabled");
    page.click(&format!("key-disable-{id}"));
    page.wait_for("the key is disabled", |page| page.attribute(&state, "data-state") == "Disabled");
    page.wait_for_text("message", "is disabled");
    assert_refused(&cat(&m, "cold"), "Permission denied");

    page.click("tab-calls");
    page.wait_for("the refusal is in the log", |page| page.count(refusals) > 0);
    let before = page.count(refusals);
    // The log goes on by itself.
    page.wait_for("another refusal comes", |page| {
        assert_refused(&cat(&m, "cold"), "Permission denied");
        page.count(refusals) > before
    });

    page.click("tab-keys");
    let uses = format!("key-uses-{id}");
    let before: u64 = page.attribute(&uses, "data-value").parse().unwrap();
    page.click(&format!("key-enable-{id}"));
    page.wait_for("the key is enabled", |page| page.attribute(&state, "data-state") == "Enabled");
    wait_until_readable(&m);
    page.wait_for("the use is counted", |page| page.attribute(&uses, "data-value").parse::<u64>().unwrap() > before);
    page.assert_no_trouble();
}

fn a_key_is_rotated(setup: &Setup) {
    let mut m = with_a_cold_file(setup);
    let page = console(&m);
    let versions = format!("key-versions-{}", m.key_id);
    assert_eq!(page.text(&versions), "1 version");
    page.click(&format!("key-rotate-{}", m.key_id));
    page.wait_for_text(&versions, "2 versions");
    assert_eq!(cat(&m, "cold").stdout, pattern(1, LEN));
    fs::write(m.path("new"), pattern(2, LEN)).unwrap();
    m.remount();
    assert!(cat(&m, "cold").stdout == pattern(1, LEN) && cat(&m, "new").stdout == pattern(2, LEN));
    page.click(&format!("key-expand-{}", m.key_id));
    page.wait_for("both versions are listed", |page| page.count("tr.detail td .copy") == 2);
    page.assert_no_trouble();
}

fn a_fault_strikes_until_it_is_cleared(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let page = console(&m);
    page.click("tab-trouble");
    page.choose("fault-api", "decrypt");
    page.choose("fault-code", "KMS.0219");
    page.fill("fault-times", "1000");
    page.click("fault-inject");
    page.wait_for_text("fault-row", "KMS.0219");
    assert!(page.text("fault-row").contains("decrypt") && page.text("fault-row").contains("1,000"));
    assert_refused(&cat(&m, "cold"), "Input/output error");
    page.wait_for("it is counted", |page| page.text("fault-row").contains("999"));
    page.click("faults-clear");
    page.wait_for("no fault is left", |page| page.count("[data-testid=fault-row]") == 0);
    wait_until_readable(&m);
    page.assert_no_trouble();
}

fn the_clock_is_moved(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let page = console(&m);
    let today = page.text("now");
    assert_eq!(page.text("clock-shift"), "");
    page.click("tab-trouble");
    page.click("clock-day");
    page.wait_for_text("clock-shift", "+1 d");
    assert!(page.text("now")[..10] > today[..10], "{today} and a day is {}", page.text("now"));
    // A client with the real time is a day late.
    assert!(!cat(&m, "cold").status.success());
    assert!(!page.text("clock-skewed").is_empty());
    page.click("clock-real");
    page.wait_for("it is today again", |page| page.text("clock-shift").is_empty());
    wait_until_readable(&m);
    page.assert_no_trouble();
}

fn two_languages(setup: &Setup) {
    let m = Mounted::new(setup);
    let page = console(&m);
    let (disable, state) = (format!("key-disable-{}", m.key_id), format!("key-state-{}", m.key_id));
    let expect = |language: &str, tab: &str, button: &str, enabled: &str| {
        page.wait_for_text("tab-keys", tab);
        assert_eq!((page.text(&disable).as_str(), page.text(&state).as_str()), (button, enabled));
        assert_eq!(page.evaluate("return document.documentElement.lang"), language);
    };
    expect("en", "Keys", "Disable", "Enabled");
    page.click("lang-zh");
    expect("zh-CN", "密钥", "禁用", "已启用");
    // The choice outlives the page.
    page.evaluate("location.reload()");
    page.wait_for_text("connection", "已连接");
    expect("zh-CN", "密钥", "禁用", "已启用");
    page.click("lang-en");
    expect("en", "Keys", "Disable", "Enabled");
    page.assert_no_trouble();
}

fn nothing_is_asked_of_another_site(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let page = console(&m);
    for language in ["lang-en", "lang-zh"] {
        page.click(language);
        for tab in ["calls", "certificates", "access-points", "trouble", "keys"] {
            page.click(&format!("tab-{tab}"));
            page.wait_for("the tab opens", |page| page.count(&format!("#{tab}")) == 1);
            // Nothing is wider than the window.
            let wide =
                page.evaluate("return document.documentElement.scrollWidth > document.documentElement.clientWidth");
            assert_eq!(wide, false, "{tab} in {language}");
            // No name of a text is left where a text should be.
            let bare = page
                .evaluate("return [...document.querySelectorAll('[data-i18n]')].filter(e => !e.textContent).length");
            assert_eq!(bare, 0);
        }
    }
    let entries =
        "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith(location.origin + '/')).length";
    assert_eq!(page.evaluate(entries), 0);
    page.assert_no_trouble();
}
