//! docs/SEMANTICS.md keeps its form: each bullet is one sentence with the tests that show it, and each of these tests has
//! the sentence as its comment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From here on the page tells what no test shows.
const REST: &str = "\n## Not tested\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// With single spaces.
fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The bullets of a page, each as one line without its dash.
fn bullets(page: &str) -> Vec<String> {
    let mut bullets: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if let Some(first) = line.strip_prefix("- ") {
            bullets.push(first.to_owned());
            inside = true;
        } else if let (true, Some(next)) = (inside, line.strip_prefix("  ")) {
            let bullet = bullets.last_mut().expect("it was begun");
            bullet.push(' ');
            bullet.push_str(next);
        } else {
            inside = false;
        }
    }
    bullets.iter().map(|bullet| normal(bullet)).collect()
}

/// "A sentence. (`one`, `two`)" as the sentence and the names.
fn parts(bullet: &str) -> Option<(&str, Vec<&str>)> {
    let (sentence, names) = bullet.strip_suffix("`)")?.rsplit_once(" (`")?;
    Some((sentence, names.split("`, `").collect()))
}

/// The comment of each function at the outermost level of a source, by the function's name.
fn comments(source: &str) -> Vec<(String, String)> {
    let (mut comment, mut out) = (String::new(), Vec::new());
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            comment.push_str(text);
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().expect("split gives one").to_owned();
            out.push((name, normal(&std::mem::take(&mut comment))));
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    out
}

/// All functions of the test suites with their comments; one name may be that of several.
fn functions() -> BTreeMap<String, Vec<String>> {
    let mut functions = BTreeMap::<String, Vec<String>>::new();
    // Cuts, kills and faults of the core alone are tried in unit tests.
    let rooms = ["tests", "src/content", "src/fs", "src/fs/power_cut", "src/fs/faults"];
    for entry in rooms.into_iter().flat_map(|room| fs::read_dir(root().join(room)).expect("a room").flatten()) {
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            for (name, comment) in comments(&read(entry.path())) {
                functions.entry(name).or_default().push(comment);
            }
        }
    }
    functions
}

/// What is wrong with a bullet, if anything.
fn fault(bullet: &str, functions: &BTreeMap<String, Vec<String>>) -> Option<String> {
    let Some((sentence, names)) = parts(bullet) else { return Some("names no test".into()) };
    let ends = sentence.split(". ").count();
    if ends != 1 || !sentence.ends_with('.') {
        return Some("is not one sentence".into());
    }
    names.into_iter().find_map(|name| match name.split_once(": ") {
        Some((script, check)) => {
            let there = script.starts_with("scripts/") && read(script).contains(&format!("check \"{check}\""));
            (!there).then(|| format!("names a check that is not there: {name}"))
        }
        None => match functions.get(name) {
            None => Some(format!("names a test that is not there: {name}")),
            Some(comments) if comments.iter().any(|comment| comment == sentence) => None,
            Some(comments) => Some(format!("is not the comment of {name}, which is {comments:?}")),
        },
    })
}

#[test]
fn each_sentence_has_a_test_whose_comment_it_is() {
    let page = read("docs/SEMANTICS.md");
    let (told, _) = page.split_once(REST).expect("the page ends with what is not tested");
    let (bullets, functions) = (bullets(told), functions());
    assert!(bullets.len() > 50, "{} bullets: is this the page?", bullets.len());
    let faults: Vec<_> = bullets.iter().filter_map(|bullet| Some((bullet, fault(bullet, &functions)?))).collect();
    assert!(faults.is_empty(), "docs/SEMANTICS.md: {faults:#?}");
}

#[test]
fn faults_of_the_page_are_found() {
    let functions = BTreeMap::from([("shows_it".to_owned(), vec!["It works, in\n`some` way.".to_owned()])]);
    let functions: BTreeMap<_, Vec<_>> =
        functions.into_iter().map(|(name, all)| (name, all.iter().map(|text| normal(text)).collect())).collect();
    let fault = |bullet: &str| fault(bullet, &functions);
    assert_eq!(fault("It works, in `some` way. (`shows_it`)"), None);
    assert!(fault("It works, in `some` way.").is_some_and(|fault| fault.contains("no test")));
    assert!(fault("It works, in some way. (`shows_it`)").is_some_and(|fault| fault.contains("comment")));
    assert!(fault("It works, in `some` way. (`other`)").is_some_and(|fault| fault.contains("not there")));
    assert!(fault("It works. It does. (`shows_it`)").is_some_and(|fault| fault.contains("one sentence")));
    assert!(fault("It works. (`scripts/stress.sh: nothing of the kind`)").is_some_and(|f| f.contains("a check")));
    let page = "text\n\n- one\n  goes on\n- two\n\n  no bullet\n";
    assert_eq!(bullets(page), ["one goes on", "two"]);
    let source = "/// One\n/// two.\n#[test]\nfn a() {}\n\n/// Of something else.\nstruct B;\nfn c<T>() {}\n";
    let wanted = [("a", "One two."), ("c", "")].map(|(name, comment)| (name.to_owned(), comment.to_owned()));
    assert_eq!(comments(source), wanted);
}
