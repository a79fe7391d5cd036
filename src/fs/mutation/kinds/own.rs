//! Changes of the volume's own files: redo files, state, volume file.

use std::fs;

use super::super::judge::Listed;
use super::super::store::{Step, redo_files};
use super::{Ground, Mutation};
use crate::format::layout::BLOCK_LEN;
use crate::format::redo::PLACE_LEN;
use crate::format::{STATE_FILE, VOLUME_FILE};
use crate::fs::power_cut::Random;

impl Ground<'_> {
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
        let write = |at: usize, data: Vec<u8>| vec![Step::Bytes { file: name.clone(), off: at as u64, data }];
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
        add(
            format!("{name} of another session"),
            vec![Step::Rename { from: name.clone(), to: "kmsfs.redo.7777".into() }],
        );
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
                add(
                    format!("bit {bit} of byte {byte} of {name}"),
                    vec![Step::Bytes { file: at.clone(), off: byte as u64, data }],
                );
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
