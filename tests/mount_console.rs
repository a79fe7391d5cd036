//! The console of the mock KMS in a real browser: what is clicked there is felt on a mount, and what the mount does is seen there.
//!
//! `cargo test --test mount_console -- --ignored screenshots` takes the pictures of `docs/console/` anew (Chinese needs fonts-noto-cjk).

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use kms_mock::{Fault, FaultKind};

use browser::Browser;
use common::io::{errno, pattern};
use common::mounted::text;
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
                a_deletion_is_planned_and_cancelled,
                what_is_refused_is_not_offered,
                a_fault_strikes_until_it_is_cleared,
                the_clock_is_moved,
                two_languages,
                nothing_is_asked_of_another_site,
            ],
        )
        .on_request(&[AES], bodies![screenshots])
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

/// Runs Python that makes what only the API makes, by the mock's example of a client; what it prints.
fn on_the_account(m: &Mounted, script: &str) -> String {
    let start = "import client, sys\nkms, mount_key = client.Kms(*sys.argv[1:4], client.native), sys.argv[4]\n";
    let credential = m.kms().credential();
    let done = Command::new("python3")
        .args(["-c", &format!("{start}{script}")])
        .args([&m.kms().endpoint(), &credential.access_key, &credential.secret_key, &m.key_id])
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("kms-mock/examples"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", text(&done));
    String::from_utf8(done.stdout).expect("UTF-8")
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

fn a_deletion_is_planned_and_cancelled(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let page = console(&m);
    let state = format!("key-state-{}", m.key_id);
    // A second thought changes nothing.
    page.click(&format!("key-delete-{}", m.key_id));
    page.click("confirm-cancel");
    page.click(&format!("key-delete-{}", m.key_id));
    page.fill("confirm-days", "7");
    assert_eq!(page.attribute(&state, "data-state"), "Enabled");
    page.click("confirm-ok");
    page.wait_for("the deletion is planned", |page| page.attribute(&state, "data-state") == "PendingDeletion");
    assert_refused(&cat(&m, "cold"), "Permission denied");
    page.click(&format!("key-cancel-deletion-{}", m.key_id));
    page.click("confirm-ok");
    page.wait_for("it is cancelled", |page| page.attribute(&state, "data-state") == "Enabled");
    wait_until_readable(&m);
    page.assert_no_trouble();
}

fn what_is_refused_is_not_offered(setup: &Setup) {
    let m = Mounted::new(setup);
    let made = on_the_account(
        &m,
        r#"
made = kms.call("/cmkManage/createKey", keySpec="AES_256", keyUsage="ENCRYPT/DECRYPT", protectionLevel="SOFTWARE",
                enableAutomaticRotation=False, origin="EXTERNAL")
print(made["cmkUuid"], kms.call("/cmkManage/describeKey", cmkUuid="alias/ecs")["cmkUuid"])
"#,
    );
    let (external, default) = made.trim().split_once(' ').expect("two ids");
    let page = console(&m);
    assert_eq!(page.text(&format!("key-state-{external}")), "Pending import");
    let rotate = format!("key-rotate-{external}");
    assert!(page.disabled(&rotate) && page.attribute(&rotate, "title").starts_with("Imported key material"));
    assert!(!page.disabled(&format!("key-delete-{external}")));
    for action in ["disable", "rotate", "delete"] {
        assert!(page.disabled(&format!("key-{action}-{default}")), "{action}");
        assert!(!page.disabled(&format!("key-{action}-{}", m.key_id)), "{action}");
    }
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
    let page = Browser::open(&m.kms().endpoint(), "/__mock/console/#trouble");
    assert_eq!(page.evaluate("return scrollY"), 0, "a tab that is linked to is shown from its top");
    let today = page.text("now");
    assert_eq!(page.text("clock-shift"), "");
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
    // The choice outlives the page, as the tab does.
    page.click("tab-trouble");
    page.reload();
    page.wait_for("the tab is open", |page| page.count("#trouble") == 1);
    page.click("tab-keys");
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

/// An account with some history.
const ACCOUNT: &str = r#"
def key(spec, alias, description, level="HSM", usage="ENCRYPT/DECRYPT", rotation=False):
    made = kms.call("/cmkManage/createKey", keySpec=spec, keyUsage=usage, protectionLevel=level, enableAutomaticRotation=rotation,
                    description=description, **({"rotationInterval": 90} if rotation else {}))
    kms.call("/aliasManage/createAlias", aliasName=alias, cmkUuid=made["cmkUuid"])
    return made["cmkUuid"]

invoices = key("AES_256", "alias/invoices", "Scanned invoices", rotation=True)
for _ in range(27):
    kms.call("/keyCompute/generateDataKey", cmkUuid=invoices)
letters = key("Ctyun_SM4", "alias/letters", "Letters to customers")
kms.call("/keyCompute/encrypt", cmkUuid=letters, plaintext="AAAA")
key("RSA_2048", "alias/handover", "For the archive's operator", level="SOFTWARE")
kms.call("/cmkManage/enableDeletionProtection", cmkUuid=key("EC_SM2", "alias/contracts", "Signed contracts", usage="SIGN/VERIFY"))
kms.call("/cmkManage/disableKey", cmkUuid=key("AES_256", "alias/backup-2024", "Backups of last year", level="SOFTWARE"))
kms.call("/cmkManage/scheduleKeyDeletion", cmkUuid=key("AES_256", "alias/trial", "", level="SOFTWARE"), pendingWindowInDays=14)
kms.call("/aliasManage/createAlias", aliasName="alias/kmsfs-home", cmkUuid=mount_key)

def request(spec, name, level):
    return kms.call("/manageCertificate/createCertificate", keySpec=spec, subject=f"C=CN,O=Example,CN={name}", protectionLevel=level,
                    subjectAlternativeNames=[name], exportablePrivateKey=0)

request("SM2", "www.example.com", "0")
request("RSA2048", "mail.example.com", "1")
vpc = kms.call("/accessPoint/listVpcs")["vpcs"][0]["vpcId"]
subnet = kms.call("/accessPoint/listSubnets", vpcId=vpc)["subnets"][0]["subnetId"]
point = kms.call("/accessPoint/createAccessPoint", name="backup-host", vpcId=vpc, subnetId=subnet)["accessPointId"]
kms.call("/accessPoint/createAccessKey", accessPointId=point)
resources = [{"resourceType": "CMK", "resourceId": invoices, "allowed": True}]
kms.call("/accessPoint/updateResourcePermissions", accessPointId=point, resources=resources)

kms.call("/cmkManage/updateKeyDescription", cmkUuid=mount_key, description="Home directories (kmsfs)")
"#;

/// Pictures for the README of the mock: of a mount at work and of trouble with its KMS.
fn screenshots(setup: &Setup) {
    let mut m = with_a_cold_file(setup);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    on_the_account(&m, ACCOUNT);
    m.kms().rotate_key(&m.key_id).expect("rotated");
    for i in 0..12 {
        fs::write(m.path(format!("{i}")), pattern(i, 5000)).unwrap();
    }
    m.remount();
    let read = |i: u32| errno(fs::read(m.path(format!("{i}"))));
    (0..4).for_each(|i| assert_eq!(read(i), 0));
    m.kms().inject(Fault { api: Some("decrypt".into()), times: 2, kind: FaultKind::Code("KMS.0512".into()) });
    assert_eq!(read(4), 0);
    m.kms().disable_key(&m.key_id).unwrap();
    assert_eq!([read(5), read(6)], [libc::EACCES; 2]);
    m.kms().enable_key(&m.key_id).unwrap();
    (7..10).for_each(|i| wait_until("it is readable", PATIENCE, || read(i) == 0));

    let page = console(&m);
    page.resize(1280, 800);
    let save = |name: &str| {
        let directory = root.join("docs/console");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), page.screenshot()).unwrap();
    };
    page.wait_for("all keys are shown", |page| page.count("tr.key") == 8);
    save("keys-en.png");
    page.click("lang-zh");
    save("keys-zh.png");
    page.click("lang-en");
    page.click("tab-calls");
    page.wait_for("calls are shown", |page| page.count("[data-testid=call-row]") > 20);
    save("calls-en.png");
    page.click("tab-trouble");
    let kinds = [("decrypt", "KMS.0513", "3"), ("generateDataKey", "http_503", "10"), ("", "drop_after", "1")];
    for (active, (api, kind, times)) in (1..).zip(kinds) {
        page.choose("fault-api", api);
        page.choose("fault-code", kind);
        page.fill("fault-times", times);
        page.click("fault-inject");
        page.wait_for("it is active", |page| page.count("[data-testid=fault-row]") == active);
        page.click("message-close");
    }
    page.click("clock-day");
    page.wait_for_text("clock-shift", "+1 d");
    page.click("message-close");
    page.click("tab-trouble");
    save("trouble-en.png");
    page.assert_no_trouble();
}
