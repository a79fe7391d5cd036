//! What power cuts do to files whose blocks are sealed whole and overwritten in place, as the documented format of
//! gocryptfs has them: a header of 18 bytes, then for each 4096 bytes 16 of nonce, the ciphertext and 16 of tag. A model:
//! it seals with random bytes and a list of what they stand for, and changes the backing by the calls, and in the order,
//! that this format leads to.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::backing::{self, tap};
use crate::fs::{FsError, Result};

use super::rig::{self, Setup};
use super::*;

const HEADER: u64 = 18;
const BLOCK: usize = 4096;
const SEALED: usize = 16 + BLOCK + 16;

/// A mounted directory of such files.
pub struct InPlace {
    dir: tempfile::TempDir,
    root: OwnedFd,
    before: Vec<Change>,
    sealed: Sealed,
}

/// What was ever sealed: headers, and the plaintext of each block by its ciphertext.
#[derive(Clone, Default)]
pub struct Sealed {
    headers: Vec<Vec<u8>>,
    blocks: HashMap<Vec<u8>, Vec<u8>>,
}

impl InPlace {
    pub fn new() -> Self {
        let dir = rig::fresh_dir();
        let root = backing::open_root(dir.path()).expect("opens");
        Self { dir, root, before: Vec::new(), sealed: Sealed::default() }
    }

    fn open(&self, path: &str) -> Result<OwnedFd> {
        let entry = backing::open_entry(self.root.as_fd(), path.as_bytes())?;
        Ok(backing::reopen(entry.as_fd(), rustix::fs::OFlags::RDWR)?)
    }

    fn stored(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(path)).expect("reads")
    }
}

impl Volume for InPlace {
    fn create(&mut self, path: &str) -> Result<()> {
        backing::create(self.root.as_fd(), path.as_bytes(), 0o644)?;
        Ok(())
    }

    /// The header with the first byte; blocks at the edges are read, merged and sealed again; all of it in one call.
    fn write(&mut self, path: &str, off: u64, data: &[u8]) -> Result<()> {
        let file = self.open(path)?;
        let before = self.stored(path);
        if before.is_empty() {
            let header = random(HEADER as usize);
            backing::write_at(file.as_fd(), &header, 0)?;
            self.sealed.headers.push(header);
        }
        let mut plain = self.sealed.plain(&before).ok_or(FsError::Stale)?;
        assert!(off as usize <= plain.len(), "the model has no holes");
        let end = off as usize + data.len();
        plain.resize(plain.len().max(end), Some(0));
        plain[off as usize..end].iter_mut().zip(data).for_each(|(plain, byte)| *plain = Some(*byte));
        let (first, last) = (off as usize / BLOCK, (end - 1) / BLOCK);
        let mut out = Vec::new();
        for block in plain.chunks(BLOCK).skip(first).take(last - first + 1) {
            let whole: Vec<u8> = block.iter().map(|byte| byte.expect("the model does not go on with damage")).collect();
            let sealed = random(whole.len() + 32);
            out.extend(&sealed);
            self.sealed.blocks.insert(sealed, whole);
        }
        Ok(backing::write_at(file.as_fd(), &out, HEADER + (first * SEALED) as u64)?)
    }

    fn fsync(&mut self, path: &str) -> Result<()> {
        Ok(backing::fsync(self.open(path)?.as_fd())?)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        Ok(backing::unlink(self.root.as_fd(), path.as_bytes())?)
    }

    fn fsync_dir(&mut self, _: &str) -> Result<()> {
        Ok(backing::fsync(self.root.as_fd())?)
    }

    fn root_ino(&self) -> u64 {
        rig::ino(self.dir.path())
    }

    fn before(&self) -> Vec<Change> {
        self.before.clone()
    }

    fn setup(&self) -> Setup {
        Setup::safe()
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(crate::crypto::random::bytes::<16>());
    }
    bytes.truncate(len);
    bytes
}

impl Sealed {
    /// The bytes of a stored file, `None` for those of blocks that do not verify; `None` if its header does not.
    fn plain(&self, stored: &[u8]) -> Option<Vec<Seen>> {
        let Some((header, blocks)) = stored.split_at_checked(HEADER as usize) else {
            return stored.is_empty().then(Vec::new);
        };
        if !self.headers.iter().any(|known| known == header) {
            return None;
        }
        let mut out = Vec::new();
        for block in blocks.chunks(SEALED) {
            match self.blocks.get(block) {
                Some(plain) => out.extend(plain.iter().map(|byte| Some(*byte))),
                None => out.extend(std::iter::repeat_n(None, block.len().saturating_sub(32))),
            }
        }
        Some(out)
    }

    fn look(&self, at: &Path) -> Found {
        let mut names = BTreeMap::new();
        for (entry, id) in std::fs::read_dir(at).expect("lists").flatten().zip(1..) {
            let seen = self.plain(&std::fs::read(entry.path()).expect("reads"));
            names.insert(entry.file_name().into_encoded_bytes(), FoundObject::File { id, seen });
        }
        Found { names }
    }
}

/// The same workloads and cuts lose what was fsynced where blocks are overwritten in place.
#[test]
fn overwriting_in_place_loses_what_was_fsynced() {
    type Work = fn(&mut World<InPlace>);
    let workloads: [(&str, Work); 3] = [
        ("append log", workloads::append_log),
        ("random overwrites", workloads::random_overwrites),
        ("database", workloads::database),
    ];
    for (name, work) in workloads {
        let mut world = World::over(InPlace::new(), Names::new(), Vec::new());
        work(&mut world);
        let sealed = world.rig.sealed.clone();
        let (mut lost, story) = (0, world.end());
        let judged = story.each_state(64, 12 * runs() as usize, 1, &mut |state| {
            lost += usize::from(state.judge_found(&sealed.look(state.put().path())).is_err());
            Ok(())
        });
        let count = judged.expect("every state was looked at");
        println!("in place, {name}: {} cuts in {} states, {lost} lose what was fsynced", count.points, count.states);
        assert!(lost > 0, "{name}");
        // With nothing lost on the way, the model keeps what it is told.
        let last = story.each_state(0, 0, 1, &mut |state| match state.is_kill() {
            true => state.judge_found(&sealed.look(state.put().path())),
            false => Ok(()),
        });
        last.expect("a killed daemon loses nothing that was written");
    }
    let _ = tap::take();
}
