//! Every kind of change, made one at a time for a volume. Here those of stored files; [`names`] and [`own`] have the others.

mod names;
mod own;

use std::collections::BTreeSet;
use std::fs;

use crate::format::layout::{BLOCK_LEN, HEADER_LEN, RECORD_AT, data_page, slot_place};
use crate::format::volume::NameMode;
use crate::fs::power_cut::Random;

use super::corpus::Corpus;
use super::judge::Listed;
use super::seen::{Body, Path8};
use super::store::Step;

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

    fn link_target(&self, stored: &str) -> Vec<u8> {
        let target = fs::read_link(self.corpus.dir.path().join(stored)).expect("reads");
        std::os::unix::ffi::OsStringExt::into_vec(target.into_os_string())
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
