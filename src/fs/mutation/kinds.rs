//! Every kind of change, made one at a time for a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::format::layout::{BLOCK_LEN, HEADER_LEN, RECORD_AT, data_page, slot_place};
use crate::format::redo::PLACE_LEN;
use crate::format::volume::NameMode;
use crate::format::{DIR_MARKER, STATE_FILE, VOLUME_FILE};
use crate::fs::power_cut::{Random, rig};
use crate::names::Names;

use super::corpus::Corpus;
use super::judge::Listed;
use super::seen::{Body, Path8};
use super::store::{Step, redo_files, xattrs};

const SECTOR: usize = 512;

/// Changes, what they may reach, and what it may do unseen.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub kind: &'static str,
    pub what: String,
    pub steps: Vec<Step>,
    pub touches: BTreeSet<Path8>,
    pub allows: BTreeSet<Listed>,
    /// It may not go unseen: neither the same plaintext nor something listed.
    pub must: bool,
}

/// A stored file.
pub struct File {
    pub path: Path8,
    pub stored: String,
    pub bytes: Vec<u8>,
    older: Option<Vec<u8>>,
}

/// A volume, seen from where changes are made.
pub struct Ground<'a> {
    pub corpus: &'a Corpus,
    pub files: Vec<File>,
}

impl<'a> Ground<'a> {
    pub fn new(corpus: &'a Corpus) -> Self {
        let mut files: Vec<File> = Vec::new();
        for (path, object) in &corpus.now.objects {
            let Body::File(Ok(content)) = &object.body else { continue };
            let stored = &corpus.now.stored[path];
            let is_first = corpus.names_of(path).first() == Some(path);
            if content.size == 0 || content.size > 1 << 28 || !is_first {
                continue;
            }
            let older = corpus.history[0].stored.get(path).map(|stored| corpus.older_dir.path().join(stored));
            files.push(File {
                path: path.clone(),
                stored: stored.clone(),
                bytes: fs::read(corpus.dir.path().join(stored)).expect("reads"),
                older: older.map(|at| fs::read(at).expect("reads")),
            });
        }
        Self { corpus, files }
    }

    pub fn file(&self, path: &str) -> &File {
        self.files.iter().find(|file| file.path == path.as_bytes()).expect("the corpus has it")
    }

    fn encrypted(&self) -> bool {
        self.corpus.setup.names == NameMode::Encrypted
    }

    /// A change of stored files alone.
    fn of_files(&self, kind: &'static str, what: String, files: &[&File], steps: Vec<Step>) -> Mutation {
        let touches = files.iter().flat_map(|file| self.corpus.names_of(&file.path)).collect();
        let mut allows = BTreeSet::new();
        if self.corpus.crashed {
            allows.insert(Listed::Unclean);
        }
        Mutation { kind, what, steps, touches, allows, must: false }
    }

    fn of_names(&self, kind: &'static str, what: String, touched: &[&str], steps: Vec<Step>) -> Mutation {
        let mut touches: BTreeSet<Path8> = touched.iter().map(|path| path.as_bytes().to_vec()).collect();
        for path in touched {
            touches.extend(self.corpus.names_of(path.as_bytes()));
        }
        let mut allows = BTreeSet::new();
        if !self.encrypted() {
            allows.insert(Listed::PlainNames);
        }
        Mutation { kind, what, steps, touches, allows, must: false }
    }

    fn stored(&self, path: &str) -> String {
        self.corpus.now.stored[path.as_bytes()].clone()
    }

    fn target(&self, stored: &str) -> Vec<u8> {
        fs::read_link(self.corpus.dir.path().join(stored)).expect("reads").as_os_str().as_bytes().to_vec()
    }

    pub fn flip(&self, file: &File, off: usize, bit: u8) -> Mutation {
        let step = Step::Bytes { file: file.stored.clone(), off: off as u64, data: vec![file.bytes[off] ^ (1 << bit)] };
        let what = format!("bit {bit} of byte {off} of {} flipped", shown(file));
        self.of_files("bits flipped", what, &[file], vec![step])
    }

    fn write(&self, kind: &'static str, what: String, file: &File, off: usize, data: Vec<u8>) -> Mutation {
        self.of_files(kind, what, &[file], vec![Step::Bytes { file: file.stored.clone(), off: off as u64, data }])
    }

    /// Flips in every page: at its ends, in each slot and record of head and tag pages, and at random.
    pub fn flips(&self, random: &mut Random, per_page: usize) -> Vec<Mutation> {
        let mut out = Vec::new();
        for file in &self.files {
            for page in 0..file.bytes.len() / BLOCK_LEN {
                let at = page * BLOCK_LEN;
                let mut places = vec![0, BLOCK_LEN - 1];
                places.extend((0..per_page).map(|_| random.below(BLOCK_LEN as u64) as usize));
                out.extend(places.into_iter().map(|off| self.flip(file, at + off, random.below(8) as u8)));
            }
        }
        out
    }

    pub fn zeros(&self) -> Vec<Mutation> {
        let mut out = Vec::new();
        for file in &self.files {
            for at in (0..file.bytes.len()).step_by(SECTOR) {
                let end = (at + SECTOR).min(file.bytes.len());
                if file.bytes[at..end].iter().any(|&b| b != 0) && (at / SECTOR).is_multiple_of(3) {
                    let what = format!("sector at {at} of {} zeroed", shown(file));
                    out.push(self.write("sectors zeroed", what, file, at, vec![0; end - at]));
                }
            }
            for page in 0..file.bytes.len() / BLOCK_LEN {
                let what = format!("page {page} of {} zeroed", shown(file));
                let at = page * BLOCK_LEN;
                let mut zeroed = self.write("pages zeroed", what, file, at, vec![0; BLOCK_LEN]);
                // What is left in a page that does not count (a hole's, one whose newest version waits in a redo file)
                // may go.
                let counts = page == 0 || self.is_data(file, page) || self.has_slots(file, page);
                zeroed.must = counts && !self.corpus.crashed;
                out.push(zeroed);
            }
        }
        out
    }

    fn is_data(&self, file: &File, page: usize) -> bool {
        let blocks = &self.corpus.now.objects[&file.path].content().expect("it was read").blocks;
        blocks.iter().any(|(n, block)| {
            data_page(*n) == page as u64 && block.as_ref().is_ok_and(|block| block.iter().any(|&b| b != 0))
        })
    }

    fn has_slots(&self, file: &File, page: usize) -> bool {
        let blocks = &self.corpus.now.objects[&file.path].content().expect("it was read").blocks;
        blocks.keys().any(|&n| {
            let (of, at) = slot_place(n);
            of == page as u64 && file.bytes[page * BLOCK_LEN + at..][..64].iter().any(|&b| b != 0)
        })
    }

    /// Pages of one file in each other's place, and in another file's.
    pub fn pages(&self, random: &mut Random, n: usize) -> Vec<Mutation> {
        let kind = "pages swapped";
        let mut out = Vec::new();
        for _ in 0..n {
            let (a, b) = (self.any(random), self.any(random));
            let (i, j) = (any_page(a, random), any_page(b, random));
            let page = |file: &File, i: usize| file.bytes[i * BLOCK_LEN..][..BLOCK_LEN].to_vec();
            let at = |file: &File, i: usize, data| Step::Bytes {
                file: file.stored.clone(),
                off: (i * BLOCK_LEN) as u64,
                data,
            };
            if page(a, i) == page(b, j) {
                continue;
            }
            let what = format!("page {i} of {} and page {j} of {} exchanged", shown(a), shown(b));
            let swap = vec![at(a, i, page(b, j)), at(b, j, page(a, i))];
            let over = vec![at(a, i, page(b, j))];
            let what_over = format!("page {j} of {} over page {i} of {}", shown(b), shown(a));
            let two = [self.of_files(kind, what, &[a, b], swap), self.of_files(kind, what_over, &[a], over)];
            // With its header, record and slots a file is what the other was, as far as that is there.
            let allows = |mutation: Mutation| Mutation {
                allows: mutation.allows.iter().copied().chain([Listed::Elsewhere]).collect(),
                ..mutation
            };
            out.extend(two.map(|mutation| if (i, j) == (0, 0) { allows(mutation) } else { mutation }));
        }
        out
    }

    /// Parts of head and tag pages over others, of one file and of two.
    pub fn parts(&self, random: &mut Random, n: usize) -> Vec<Mutation> {
        let kind = "headers, slots, records moved";
        let mut out = Vec::new();
        for file in &self.files {
            let (one, two) = (file.bytes[..HEADER_LEN].to_vec(), file.bytes[HEADER_LEN..2 * HEADER_LEN].to_vec());
            let what = format!("header copies of {} exchanged", shown(file));
            out.push(self.write(kind, what, file, 0, [two, one].concat()));
            let other = self.any(random);
            for (part, from, to) in [
                ("header copy 0", 0, HEADER_LEN),
                ("both header copies", 0, 2 * HEADER_LEN),
                ("record", RECORD_AT, BLOCK_LEN),
                ("slots", 2 * HEADER_LEN, RECORD_AT),
                ("slots and record", 2 * HEADER_LEN, BLOCK_LEN),
            ] {
                let what = format!("{part} of {} in {}", shown(other), shown(file));
                out.push(self.write(kind, what, file, from, other.bytes[from..to].to_vec()));
            }
            if file.bytes.len() >= 32 * BLOCK_LEN {
                let map = 31 * BLOCK_LEN;
                let (first, second) = (file.bytes[map..map + 64].to_vec(), file.bytes[map + 64..map + 128].to_vec());
                out.push(self.write(
                    kind,
                    format!("map records 0 and 1 of {} exchanged", shown(file)),
                    file,
                    map,
                    [second, first].concat(),
                ));
            }
        }
        for _ in 0..n {
            let (a, b) = (self.any(random), self.any(random));
            let (i, j) = (any_slot(a, random), any_slot(b, random));
            let (from, to) = (b.bytes[j..j + 64].to_vec(), a.bytes[i..i + 64].to_vec());
            let half = |slot: &[u8]| [&slot[32..], &slot[..32]].concat();
            let cases = [
                (format!("slot at {j} of {} over that at {i} of {}", shown(b), shown(a)), from.clone()),
                (format!("halves of the slot at {i} of {} exchanged", shown(a)), half(&to)),
                (format!("first half of the slot at {i} of {} twice", shown(a)), [&to[..32], &to[..32]].concat()),
                (format!("second half of the slot at {i} of {} gone", shown(a)), [&to[..32], &[0; 32]].concat()),
                (format!("first half of the slot at {i} of {} gone", shown(a)), [&[0; 32], &to[32..]].concat()),
                (
                    format!("half of a slot of {} beside that at {i} of {}", shown(b), shown(a)),
                    [&to[..32], &from[..32]].concat(),
                ),
            ];
            out.extend(cases.into_iter().map(|(what, slot)| self.write(kind, what, a, i, slot)));
        }
        out
    }

    /// Parts of what a file was earlier in what it is now.
    pub fn older_parts(&self, random: &mut Random, n: usize) -> Vec<Mutation> {
        let kind = "older parts put back";
        let mut out = Vec::new();
        let with_past: Vec<(&File, &Vec<u8>)> = self
            .files
            .iter()
            .filter_map(|file| Some((file, file.older.as_ref()?)))
            .filter(|(file, older)| file.bytes != **older)
            .collect();
        let allowed = |mutation: Mutation| Mutation {
            allows: mutation.allows.iter().copied().chain([Listed::PutBack, Listed::SizeBeforeOpening]).collect(),
            ..mutation
        };
        for (file, older) in &with_past {
            let steps = vec![
                Step::Bytes { file: file.stored.clone(), off: 0, data: (*older).clone() },
                Step::Len { file: file.stored.clone(), len: older.len() as u64 },
            ];
            out.push(allowed(self.of_files(kind, format!("all of {}", shown(file)), &[file], steps)));
            for (part, from, to) in [
                ("headers", 0, 2 * HEADER_LEN),
                ("slots", 2 * HEADER_LEN, RECORD_AT),
                ("record", RECORD_AT, BLOCK_LEN),
                ("first page", 0, BLOCK_LEN),
                ("all but the first page", BLOCK_LEN, older.len()),
            ] {
                let data = older[from..to.min(older.len())].to_vec();
                out.push(allowed(self.write(kind, format!("{part} of {}", shown(file)), file, from, data)));
            }
        }
        for _ in 0..n {
            let (file, older) = with_past[random.below(with_past.len() as u64) as usize];
            let pages = older.len().min(file.bytes.len()) / BLOCK_LEN;
            let page = random.below(pages as u64) as usize;
            let data = older[page * BLOCK_LEN..][..BLOCK_LEN].to_vec();
            let what = format!("page {page} of {}", shown(file));
            out.push(allowed(self.write(kind, what, file, page * BLOCK_LEN, data)));
            // A block with its slot: what an attacker would do.
            let blocks: Vec<u64> = (0..).take_while(|&n| data_page(n) < pages as u64).collect();
            let Some(&block) = blocks.get(random.below(blocks.len().max(1) as u64) as usize) else { continue };
            let (slots, at) = slot_place(block);
            let slot = slots as usize * BLOCK_LEN + at;
            let page = data_page(block) as usize * BLOCK_LEN;
            let steps = [(slot, 64), (page, BLOCK_LEN)].map(|(at, len)| Step::Bytes {
                file: file.stored.clone(),
                off: at as u64,
                data: older[at..at + len].to_vec(),
            });
            let what = format!("block {block} of {} with its slot", shown(file));
            out.push(allowed(self.of_files(kind, what, &[file], steps.to_vec())));
        }
        out
    }

    pub fn lengths(&self) -> Vec<Mutation> {
        let mut out = Vec::new();
        for file in &self.files {
            let len = file.bytes.len() as u64;
            let page = BLOCK_LEN as u64;
            let last = len / page * page;
            let mut lens: BTreeSet<u64> = [0, 1, 100, page - 1, page, page + 1, 2 * page, 2 * page + 1, len / 2].into();
            lens.extend([last.saturating_sub(page), last.saturating_sub(1), last, last + 1, last + page - 1]);
            lens.extend([len - 1, len + 1, len + page, 31 * page, 32 * page, 33 * page, 34 * page]);
            lens.extend([1 << 30, 1 << 40, 1 << 46, 1 << 50, (1 << 62) + 1, i64::MAX as u64]);
            lens.remove(&len);
            for new in lens {
                let step = Step::Len { file: file.stored.clone(), len: new };
                let what = format!("length of {} from {len} to {new}", shown(file));
                let mut mutation = self.of_files("lengths changed", what, &[file], vec![step]);
                mutation.allows.insert(Listed::SizeBeforeOpening);
                if new == 0 {
                    mutation.allows.insert(Listed::Gone);
                }
                out.push(mutation);
            }
        }
        out
    }

    fn any(&self, random: &mut Random) -> &File {
        &self.files[random.below(self.files.len() as u64) as usize]
    }

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
                let hash = crate::crypto::derive::hash(self.corpus.setup.suite, name.as_bytes());
                use base64::Engine as _;
                let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash);
                let entry = format!("{}kmsfs.long.{hash}", if dir.is_empty() { String::new() } else { format!("{dir}/") });
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
        let foreign = rig_names(&keys).new_marker().1;
        for dir in ["", "dir", "other", "dir/inner"] {
            let at = marker(dir);
            let target = self.target(&at);
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
            Step::Symlink { at: marker("dir"), target: self.target(&marker("other")) },
            Step::Symlink { at: marker("other"), target: self.target(&marker("dir")) },
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
            let target = self.target(&link(path));
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
            let target = self.target(&at);
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
            Step::Symlink { at: self.stored("short"), target: self.target(&self.stored("dir/short")) },
            Step::Symlink { at: self.stored("dir/short"), target: self.target(&self.stored("short")) },
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
            let target = self.target(at);
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
        let swap =
            vec![set("dir/a", values[0].0, Some(values[1].1.clone())), set("dir/a", values[1].0, Some(values[0].1.clone()))];
        add("two attributes of dir/a exchanged".into(), &["dir/a"], swap, &[]);
        let stored = &self.corpus.history[0].stored[&b"dir/a"[..]];
        let older: BTreeMap<_, _> = xattrs(&self.corpus.older_dir.path().join(stored)).into_iter().collect();
        let step = set("dir/a", name, Some(older[name].clone()));
        add("an older value of dir/a".into(), &["dir/a"], vec![step], &[Listed::PutBack]);
        out
    }

    /// Redo files of a volume that was left by a crash.
    pub fn redo(&self, random: &mut Random) -> Vec<Mutation> {
        let kind = "redo files changed";
        let mut out = Vec::new();
        let root = self.corpus.dir.path();
        let Some(name) = redo_files(root).into_iter().next() else { return out };
        let bytes = fs::read(root.join(&name)).expect("reads");
        let places = bytes.chunks(PLACE_LEN).take_while(|place| place.iter().any(|&b| b != 0)).count();
        assert!(places > 2, "{places} places");
        let mut add = |what: String, steps: Vec<Step>| {
            let mut mutation = self.of_files(kind, what, &[], steps);
            mutation.touches.insert(Vec::new());
            out.push(mutation);
        };
        let write =
            |at: usize, data: Vec<u8>| vec![Step::Bytes { file: name.clone(), off: at as u64, data }];
        for place in 0..places {
            let at = place * PLACE_LEN;
            let in_page = (0..20).map(|_| 64 + random.below(BLOCK_LEN as u64) as usize);
            let bytes_of: Vec<usize> = (0..64).chain(in_page).collect();
            for byte in bytes_of {
                let data = vec![bytes[at + byte] ^ (1 << random.below(8))];
                add(format!("byte {byte} of place {place} of {name}"), write(at + byte, data));
            }
            add(format!("place {place} of {name} zeroed"), write(at, vec![0; PLACE_LEN]));
            let other = random.below(places as u64) as usize;
            let data = bytes[other * PLACE_LEN..][..PLACE_LEN].to_vec();
            add(format!("place {other} of {name} over place {place}"), write(at, data));
            let page = bytes[other * PLACE_LEN + 64..][..BLOCK_LEN].to_vec();
            add(format!("the page of place {other} of {name} in place {place}"), write(at + 64, page));
        }
        let two = bytes[..2 * PLACE_LEN].to_vec();
        let exchanged = [&two[PLACE_LEN..], &two[..PLACE_LEN]].concat();
        add(format!("places 0 and 1 of {name} exchanged"), write(0, exchanged));
        for len in [0, 1, 63, 64, PLACE_LEN - 1, PLACE_LEN, PLACE_LEN + 10, places * PLACE_LEN - 1] {
            add(format!("{name} cut to {len}"), vec![Step::Len { file: name.clone(), len: len as u64 }]);
        }
        add(format!("{name} gone"), vec![Step::Remove(name.clone())]);
        add(format!("{name} is a FIFO"), vec![Step::Fifo(name.clone())]);
        add(format!("{name} is a directory"), vec![Step::Mkdir(name.clone())]);
        add(format!("{name} of another session"), vec![Step::Rename { from: name.clone(), to: "kmsfs.redo.7777".into() }]);
        let random_bytes: Vec<u8> = (0..bytes.len()).map(|_| random.below(256) as u8).collect();
        add(format!("{name} is noise"), write(0, random_bytes));
        out
    }

    /// The volume's own files: a mount is refused, or nothing is different.
    pub fn own_files(&self) -> Vec<Mutation> {
        let mut out = Vec::new();
        let root = self.corpus.dir.path();
        for name in [VOLUME_FILE, STATE_FILE] {
            let bytes = fs::read(root.join(name)).expect("reads");
            let mut add = |what: String, steps: Vec<Step>| {
                let mut mutation = self.of_files("volume and state file changed", what, &[], steps);
                mutation.touches.insert(Vec::new());
                mutation.must = true;
                out.push(mutation);
            };
            let at = name.to_owned();
            for (byte, bit) in (0..bytes.len()).map(|byte| (byte, byte % 8)) {
                let data = vec![bytes[byte] ^ (1 << bit)];
                add(format!("bit {bit} of byte {byte} of {name}"), vec![Step::Bytes {
                    file: at.clone(),
                    off: byte as u64,
                    data,
                }]);
            }
            // The line feed at the end of the volume file says nothing.
            for len in (0..bytes.len() - 1).step_by(7).chain([bytes.len() - 2]) {
                add(format!("{name} cut to {len}"), vec![Step::Len { file: at.clone(), len: len as u64 }]);
            }
            add(format!("{name} gone"), vec![Step::Remove(at.clone())]);
            add(format!("{name} is a FIFO"), vec![Step::Fifo(at.clone())]);
            add(format!("{name} is a directory"), vec![Step::Mkdir(at.clone())]);
            add(format!("{name} is empty"), vec![Step::Empty(at.clone())]);
            let link = Step::Symlink { at: at.clone(), target: b"/dev/zero".to_vec() };
            add(format!("{name} is a symlink"), vec![link]);
        }
        // Older, and later sessions have written.
        let from = self.corpus.older_dir.path().join(STATE_FILE);
        let step = Step::Copy { from, to: STATE_FILE.to_owned() };
        let mut older = self.of_files("older state file put back", STATE_FILE.into(), &[], vec![step]);
        older.touches.insert(Vec::new());
        older.allows.extend([Listed::PutBack, Listed::Unclean]);
        out.push(older);
        out
    }
}

fn rig_names(keys: &crate::format::derived::VolumeKeys) -> Names<'_> {
    Names { mode: NameMode::Encrypted, name_max: 255, keys }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn shown(file: &File) -> String {
    String::from_utf8_lossy(&file.path[..file.path.len().min(20)]).into_owned()
}

fn any_page(file: &File, random: &mut Random) -> usize {
    random.below((file.bytes.len() / BLOCK_LEN) as u64) as usize
}

/// Where the slot of some block of the file lies.
fn any_slot(file: &File, random: &mut Random) -> usize {
    let pages = (file.bytes.len() / BLOCK_LEN) as u64;
    let blocks = (0..).take_while(|&n| data_page(n) < pages).count() as u64;
    let (page, at) = slot_place(random.below(blocks.max(1)));
    page as usize * BLOCK_LEN + at
}
