//! Changes of what names things: entries, markers, links of long names, symlink targets, xattrs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::super::judge::Listed;
use super::super::store::{Step, xattrs};
use super::{Ground, Mutation};
use crate::crypto::derive::hash;
use crate::format::DIR_MARKER;
use crate::format::volume::NameMode;
use crate::fs::power_cut::rig;
use crate::names::Names;

impl Ground<'_> {
    /// Entries renamed, exchanged, moved, removed, replaced.
    pub fn entries(&self) -> Vec<Mutation> {
        let kind = "entries renamed, exchanged, moved";
        let mut out = Vec::new();
        let mut add = |what: String, touched: &[&str], steps, allows: &[Listed]| {
            let mut mutation = self.of_names(kind, what, touched, steps);
            mutation.allows.extend(allows);
            out.push(mutation);
        };
        let pairs = [
            ("dir/a", "dir/b"),
            ("dir/a", "other/a"),
            ("dir", "other"),
            ("size1", "dir"),
            ("dir/short", "dir/b"),
            ("dir/a", "size0"),
            ("dir/inner", "empty"),
            ("short", "dir/short"),
            ("two parts", "dir/two parts"),
        ];
        for (a, b) in pairs {
            let (one, two) = (self.stored(a), self.stored(b));
            let exchange = vec![Step::Exchange(one.clone(), two.clone())];
            add(format!("{a} and {b} exchanged"), &[a, b], exchange, &[Listed::Elsewhere, Listed::Gone]);
            if !(b.starts_with(a) || a.starts_with(b)) {
                let replace = vec![Step::Remove(two.clone()), Step::Rename { from: one, to: two }];
                add(format!("{a} in the place of {b}"), &[a, b], replace, &[Listed::Elsewhere, Listed::Gone]);
            }
        }
        for (path, to) in [("dir/a", "other"), ("size1", "dir"), ("dir/inner", ""), ("two parts", "dir")] {
            let stored = self.stored(path);
            let name = stored.rsplit('/').next().expect("a name");
            let dir = self.stored(to);
            let there = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            // Where names are encrypted nobody sees it there; else it is an entry like any other.
            let leaf = path.rsplit('/').next().expect("a name");
            let shown = if to.is_empty() { leaf.to_owned() } else { format!("{to}/{leaf}") };
            let steps = vec![Step::Rename { from: stored, to: there }];
            let allows = [Listed::Gone, Listed::Elsewhere];
            add(format!("{path} moved to {to}/"), &[path, &shown], steps, &allows);
        }
        let some = ["size1", "dir/a", "dir", "empty", "short", "two parts", "dir/inner"];
        for path in some {
            add(format!("{path} removed"), &[path], vec![Step::Remove(self.stored(path))], &[Listed::Gone]);
            let no_content = [Listed::NoContent, Listed::Gone];
            add(format!("{path} is a FIFO"), &[path], vec![Step::Fifo(self.stored(path))], &no_content);
            add(format!("{path} is an empty file"), &[path], vec![Step::Empty(self.stored(path))], &no_content);
            add(format!("{path} is an empty directory"), &[path], vec![Step::Mkdir(self.stored(path))], &no_content);
        }
        // A name whose stored form is short, stored as long ones are: shown twice if it counted.
        if self.encrypted() {
            for path in ["size1", "dir/a"] {
                let stored = self.stored(path);
                let (dir, name) = stored.rsplit_once('/').map_or(("", &stored[..]), |(dir, name)| (dir, name));
                let hash = BASE64URL.encode(hash(self.corpus.setup.suite, name.as_bytes()));
                let entry =
                    format!("{}kmsfs.long.{hash}", if dir.is_empty() { String::new() } else { format!("{dir}/") });
                let steps = vec![
                    Step::Copy { from: self.corpus.dir.path().join(self.stored("size4096")), to: entry.clone() },
                    Step::Symlink { at: format!("{entry}.name"), target: name.as_bytes().to_vec() },
                ];
                add(format!("{path} a second time, as a long name"), &[path, parent(path)], steps, &[]);
            }
        }
        out
    }

    /// Markers of directories, which bind the names in them.
    pub fn markers(&self) -> Vec<Mutation> {
        let kind = "markers changed";
        let mut out = Vec::new();
        if !self.encrypted() {
            return out;
        }
        let marker = |dir: &str| {
            let stored = self.stored(dir);
            if stored.is_empty() { DIR_MARKER.to_owned() } else { format!("{stored}/{DIR_MARKER}") }
        };
        let mut add = |what: String, touched: &[&str], steps, allows: &[Listed]| {
            let mut mutation = self.of_names(kind, what, touched, steps);
            mutation.allows.extend(allows);
            out.push(mutation);
        };
        let keys = rig::volume_keys(self.corpus.setup.suite);
        let foreign = names_of(&keys).new_marker().1;
        for dir in ["", "dir", "other", "dir/inner"] {
            let at = marker(dir);
            let target = self.link_target(&at);
            for byte in 0..target.len() {
                let mut other = target.clone();
                other[byte] = if other[byte] == b'A' { b'B' } else { b'A' };
                let step = Step::Symlink { at: at.clone(), target: other };
                add(format!("byte {byte} of the marker of {dir}/ changed"), &[dir], vec![step], &[]);
            }
            for len in [1, 20, target.len() - 1] {
                let step = Step::Symlink { at: at.clone(), target: target[..len].to_vec() };
                add(format!("the marker of {dir}/ cut to {len}"), &[dir], vec![step], &[]);
            }
            add(format!("the marker of {dir}/ gone"), &[dir], vec![Step::Remove(at.clone())], &[Listed::NoMarker]);
            for (what, step) in [
                ("an empty file", Step::Empty(at.clone())),
                ("a FIFO", Step::Fifo(at.clone())),
                ("a directory", Step::Mkdir(at.clone())),
            ] {
                add(format!("the marker of {dir}/ is {what}"), &[dir], vec![step], &[]);
            }
            // An id that is valid, but another's: no name in there verifies, and all are hidden.
            let step = Step::Symlink { at: at.clone(), target: foreign.clone() };
            add(format!("another marker of the volume in {dir}/"), &[dir], vec![step], &[Listed::Gone]);
        }
        let swap = vec![
            Step::Symlink { at: marker("dir"), target: self.link_target(&marker("other")) },
            Step::Symlink { at: marker("other"), target: self.link_target(&marker("dir")) },
        ];
        add("the markers of dir and other exchanged".into(), &["dir", "other"], swap, &[Listed::Gone]);
        out
    }

    /// The links that hold long names.
    pub fn long_links(&self) -> Vec<Mutation> {
        let kind = "links of long names changed";
        let mut out = Vec::new();
        if !self.encrypted() {
            return out;
        }
        let (one, two) = (format!("dir/{}", "m".repeat(200)), format!("dir/{}", "n".repeat(200)));
        let root = "l".repeat(200);
        let link = |path: &str| format!("{}.name", self.stored(path));
        let mut add = |what: &str, touched: &[&str], steps| {
            let mut mutation = self.of_names(kind, what.to_owned(), touched, steps);
            // The name cannot be told: the entry is hidden from listings, and its hash still finds it.
            mutation.allows.insert(Listed::Gone);
            out.push(mutation);
        };
        for path in [&one, &root] {
            let target = self.link_target(&link(path));
            add("link removed", &[path], vec![Step::Remove(link(path))]);
            for byte in (0..target.len()).step_by(13) {
                let mut other = target.clone();
                other[byte] = if other[byte] == b'A' { b'B' } else { b'A' };
                add(
                    &format!("byte {byte} of a link changed"),
                    &[path],
                    vec![Step::Symlink { at: link(path), target: other }],
                );
            }
            let cut = Step::Symlink { at: link(path), target: target[..100].to_vec() };
            add("link cut", &[path], vec![cut]);
            add("link is a FIFO", &[path], vec![Step::Fifo(link(path))]);
            add("link is a directory", &[path], vec![Step::Mkdir(link(path))]);
        }
        add("links exchanged", &[&one, &two], vec![Step::Exchange(link(&one), link(&two))]);
        add("entries exchanged", &[&one, &two], vec![Step::Exchange(self.stored(&one), self.stored(&two))]);
        if let Some(last) = out.last_mut() {
            last.allows.insert(Listed::Elsewhere);
        }
        out
    }

    pub fn targets(&self) -> Vec<Mutation> {
        let kind = "symlink targets changed";
        let mut out = Vec::new();
        let mut add = |what: String, touched: &[&str], steps, allows: &[Listed]| {
            let mut mutation = self.of_names(kind, what, touched, steps);
            mutation.allows.extend(allows);
            out.push(mutation);
        };
        for path in ["short", "dir/short", "two parts", "dir/two parts"] {
            let at = self.stored(path);
            let target = self.link_target(&at);
            let step = (target.len() / 40).max(1);
            for byte in (0..target.len()).step_by(step).chain([1, 2, target.len() - 1]) {
                let mut other = target.clone();
                other[byte] = if other[byte] == b'A' { b'B' } else { b'A' };
                let step = Step::Symlink { at: at.clone(), target: other };
                add(format!("byte {byte} of the target of {path} changed"), &[path], vec![step], &[]);
            }
            for len in [1, target.len() / 2, target.len() - 1] {
                let step = Step::Symlink { at: at.clone(), target: target[..len].to_vec() };
                add(format!("target of {path} cut to {len}"), &[path], vec![step], &[]);
            }
        }
        let swap = vec![
            Step::Symlink { at: self.stored("short"), target: self.link_target(&self.stored("dir/short")) },
            Step::Symlink { at: self.stored("dir/short"), target: self.link_target(&self.stored("short")) },
        ];
        add("targets of short and dir/short exchanged".into(), &["short", "dir/short"], swap, &[Listed::Elsewhere]);
        let older = self.corpus.older_dir.path().join(&self.corpus.history[0].stored[&b"short"[..]]);
        let back = fs::read_link(older).expect("reads").as_os_str().as_bytes().to_vec();
        let step = Step::Symlink { at: self.stored("short"), target: back };
        add("older target of short".into(), &["short"], vec![step], &[Listed::PutBack]);
        if !self.encrypted() {
            return out;
        }
        let rest = |path: &str| {
            let dir = self.corpus.dir.path().join(self.stored(parent(path)));
            let names = fs::read_dir(dir).expect("lists").flatten().map(|entry| entry.file_name());
            let name = names
                .filter_map(|name| name.into_string().ok())
                .find(|name| name.ends_with(".target"))
                .expect("a second part");
            let dir = self.stored(parent(path));
            if dir.is_empty() { name } else { format!("{dir}/{name}") }
        };
        let (one, two) = (rest("two parts"), rest("dir/two parts"));
        for (path, at) in [("two parts", &one), ("dir/two parts", &two)] {
            let target = self.link_target(at);
            add(format!("second part of {path} gone"), &[path], vec![Step::Remove(at.clone())], &[]);
            for byte in (0..target.len()).step_by(target.len() / 20) {
                let mut other = target.clone();
                other[byte] = if other[byte] == b'A' { b'B' } else { b'A' };
                let step = Step::Symlink { at: at.clone(), target: other };
                add(format!("byte {byte} of the second part of {path} changed"), &[path], vec![step], &[]);
            }
            let step = Step::Symlink { at: at.clone(), target: target[..target.len() - 1].to_vec() };
            add(format!("second part of {path} cut"), &[path], vec![step], &[]);
            add(format!("second part of {path} is a FIFO"), &[path], vec![Step::Fifo(at.clone())], &[]);
        }
        let swap = vec![Step::Exchange(one, two)];
        add("second parts exchanged".into(), &["two parts", "dir/two parts"], swap, &[]);
        out
    }

    pub fn xattrs(&self) -> Vec<Mutation> {
        let kind = "xattrs changed";
        let mut out = Vec::new();
        let mut add = |what: String, touched: &[&str], steps, allows: &[Listed]| {
            let mut mutation = self.of_names(kind, what, touched, steps);
            mutation.allows.extend(allows);
            out.push(mutation);
        };
        let set = |path: &str, name: &str, value: Option<Vec<u8>>| Step::Xattr {
            at: self.stored(path),
            name: name.to_owned(),
            value,
        };
        let of = |path: &str| -> BTreeMap<String, Vec<u8>> {
            xattrs(&self.corpus.dir.path().join(self.stored(path))).into_iter().collect()
        };
        for path in ["dir/a", "dir/b", "dir"] {
            for (name, value) in of(path) {
                for byte in 0..value.len() {
                    let mut other = value.clone();
                    other[byte] ^= 1 << (byte % 8);
                    let what = format!("byte {byte} of a value of {path} changed");
                    add(what, &[path], vec![set(path, &name, Some(other))], &[]);
                }
                for len in [0, value.len() - 1] {
                    let step = set(path, &name, Some(value[..len].to_vec()));
                    add(format!("a value of {path} cut to {len}"), &[path], vec![step], &[]);
                }
                let steps = vec![set(path, &name, None)];
                add(format!("an attribute of {path} removed"), &[path], steps.clone(), &[Listed::Gone]);
                let mut other = name.clone().into_bytes();
                let last = other.len() - 1;
                other[last] = if other[last] == b'A' { b'Q' } else { b'A' };
                let other = String::from_utf8(other).expect("text");
                let steps = [steps, vec![set(path, &other, Some(value.clone()))]].concat();
                add(format!("an attribute of {path} renamed"), &[path], steps, &[Listed::Gone]);
            }
        }
        let (a, b) = (of("dir/a"), of("dir/b"));
        let (name, of_b) = b.iter().next().expect("it has one");
        let swap = vec![set("dir/a", name, Some(of_b.clone())), set("dir/b", name, Some(a[name].clone()))];
        add("one attribute of dir/a and dir/b exchanged".into(), &["dir/a", "dir/b"], swap, &[Listed::Elsewhere]);
        let values: Vec<(&String, &Vec<u8>)> = a.iter().collect();
        let swap = vec![
            set("dir/a", values[0].0, Some(values[1].1.clone())),
            set("dir/a", values[1].0, Some(values[0].1.clone())),
        ];
        add("two attributes of dir/a exchanged".into(), &["dir/a"], swap, &[]);
        let stored = &self.corpus.history[0].stored[&b"dir/a"[..]];
        let older: BTreeMap<_, _> = xattrs(&self.corpus.older_dir.path().join(stored)).into_iter().collect();
        let step = set("dir/a", name, Some(older[name].clone()));
        add("an older value of dir/a".into(), &["dir/a"], vec![step], &[Listed::PutBack]);
        out
    }
}

fn names_of(keys: &crate::format::derived::VolumeKeys) -> Names<'_> {
    Names { mode: NameMode::Encrypted, name_max: 255, keys }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
