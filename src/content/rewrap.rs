//! Re-wrapping: the header gets another wrapping of the same data key (`docs/FORMAT.md` section 5.2). No data is touched.
//!
//! While one of the two copies is written the other is valid and durable, so whatever is cut off or fails, the file opens:
//! by its old wrapping or by the new one. What was begun is seen by copies that differ, and whoever comes next makes them
//! equal before anything else. The caller has the volume to itself.

use super::examine::Head;
use super::*;

const CAPABILITY: &[u8] = b"security.capability";

/// Puts `wrappings` in the place of those that the header has. `data_key` is what the KMS has unwrapped **the new ones**
/// to: if it is not the file's, or they do not fit, nothing is changed. Copies that differ are made equal first. An empty
/// file has no header, and is left as it is.
pub fn rewrap(keys: &VolumeKeys, file: BorrowedFd<'_>, wrappings: Vec<Wrapping>, data_key: &SecretBytes) -> Result<()> {
    let Some(head) = Head::read(keys, file)? else { return Ok(()) };
    let (good, header) = valid(&head)?;
    if data_key.len() != keys.suite.key_len() {
        return Err(ContentError::WrongKey);
    }
    let check = FileKeys::derive(keys.suite, keys.volume_id, header.file_id, data_key);
    check.verify_key_check(&header.key_check).map_err(|_| ContentError::WrongKey)?;
    let generation = header.generation.checked_add(1).ok_or(ContentError::Generations)?;
    let new = FileHeader { generation, wrappings, ..header.clone() };
    let new = new.to_bytes(keys.suite, &keys.header)?;
    leaving_the_rest(file, || {
        if !head.copies_agree() {
            make_equal(&head, good, file)?;
        }
        put(file, 1, &new)?;
        put(file, 0, &new).inspect_err(|_| {
            // Is copy 0 durable? That is not known, and once the system has told of a failure it takes its pages for
            // clean. A copy that differs has the next re-wrap write both again before it relies on one.
            let _ = put(file, 0, head.copy(good));
        })
    })
}

/// Ends a re-wrap that was cut off: makes copies equal that differ. False if they do not.
pub fn finish(keys: &VolumeKeys, file: BorrowedFd<'_>) -> Result<bool> {
    let Some(head) = Head::read(keys, file)? else { return Ok(false) };
    let (good, _) = valid(&head)?;
    if head.copies_agree() {
        return Ok(false);
    }
    leaving_the_rest(file, || make_equal(&head, good, file))?;
    Ok(true)
}

fn valid(head: &Head) -> Result<(usize, &FileHeader)> {
    let neither = || head.copies[0].as_ref().err().copied().unwrap_or(HeaderError::Magic);
    Ok(head.header().ok_or_else(neither)?)
}

/// The copy that counts is written over itself first: whoever wrote it may have been cut off before its barrier, and
/// until it is durable the other one is needed.
fn make_equal(head: &Head, good: usize, file: BorrowedFd<'_>) -> Result<()> {
    put(file, good, head.copy(good))?;
    put(file, 1 - good, head.copy(good))
}

/// Writes a copy durably.
fn put(file: BorrowedFd<'_>, n: usize, bytes: &[u8]) -> Result<()> {
    backing::write_at(file, bytes, (n * HEADER_LEN) as u64)?;
    Ok(backing::fdatasync(file)?)
}

/// Runs `write`, which changes nothing that a user sees, and puts back what the system changes with any write: the mtime,
/// set-ID bits and the capability of a program. Where the capability could not be put back nothing is written.
fn leaving_the_rest(file: BorrowedFd<'_>, write: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = backing::stat(file)?;
    let mut capability = [0; 64];
    let capability = match backing::get_xattr(backing::XattrsOf::Open(file), CAPABILITY, &mut capability) {
        Ok(n) => Some(&capability[..n]),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
        Err(e) => return Err(e.into()),
    };
    let put_back = || match capability {
        Some(value) => {
            backing::set_xattr(backing::XattrsOf::Open(file), CAPABILITY, value, rustix::fs::XattrFlags::empty())
        }
        None => Ok(()),
    };
    put_back()?;
    let written = write();
    let set_ids = before.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0;
    let mode = if set_ids { backing::chmod(file, before.st_mode) } else { Ok(()) };
    let rest = mode.and(put_back()).and(backing::set_mtime(file, &before));
    written.and(rest.map_err(Into::into))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;
    use crate::backing::tap;
    use crate::crypto::Suite;

    const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Sm4Gcm];

    fn secret(byte: u8, suite: Suite) -> SecretBytes {
        SecretBytes::copy_of(&[byte; 32][..suite.key_len()]).expect("fits")
    }

    fn keys(suite: Suite) -> VolumeKeys {
        VolumeKeys::derive(suite, [3; 16], &secret(1, suite))
    }

    fn wrapped(key_id: &str) -> Vec<Wrapping> {
        vec![Wrapping { provider: 1, key_id: key_id.into(), key_version: "1".into(), blob: "blob".repeat(50) }]
    }

    /// A head page with a header of generation 1, wrapped by "old", in both copies.
    fn file(suite: Suite) -> (File, [u8; BLOCK_LEN]) {
        let keys = keys(suite);
        let mut header = FileHeader::new(wrapped("old"));
        header.key_check = FileKeys::derive(suite, keys.volume_id, header.file_id, &secret(2, suite)).key_check();
        let bytes = header.to_bytes(suite, &keys.header).expect("fits");
        let mut page = [7; BLOCK_LEN];
        page[..HEADER_LEN].copy_from_slice(&bytes);
        page[HEADER_LEN..2 * HEADER_LEN].copy_from_slice(&bytes);
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&page, 0).expect("writes");
        (file, page)
    }

    fn page(file: &File) -> [u8; BLOCK_LEN] {
        let mut page = [0; BLOCK_LEN];
        file.read_exact_at(&mut page, 0).expect("reads");
        page
    }

    fn header(file: &File, suite: Suite) -> FileHeader {
        FileHeader::choose(suite, &keys(suite).header, &page(file)).expect("valid")
    }

    fn rewrap_to(file: &File, key_id: &str, suite: Suite) -> Result<()> {
        rewrap(&keys(suite), file.as_fd(), wrapped(key_id), &secret(2, suite))
    }

    /// Where is written, and, as `None`, the barriers between.
    fn calls(file: &File, run: &dyn Fn(&File)) -> Vec<Option<u64>> {
        tap::record();
        run(file);
        let one = |change| match change {
            tap::Change::Write { off, .. } => Some(off),
            tap::Change::Sync { .. } => None,
            other => panic!("{other:?}"),
        };
        tap::take().into_iter().map(one).collect()
    }

    #[test]
    fn a_header_gets_its_new_wrapping_and_nothing_else_changes() {
        for suite in SUITES {
            let (file, before) = file(suite);
            file.set_permissions(std::fs::Permissions::from_mode(0o4755)).expect("sets");
            let mtime = file.metadata().expect("there").modified().expect("has one");
            for (generation, key_id) in [(2, "new"), (3, "newer")] {
                let was = header(&file, suite);
                rewrap_to(&file, key_id, suite).expect("re-wraps");
                let now = header(&file, suite);
                assert_eq!((now.generation, &now.wrappings), (generation, &wrapped(key_id)));
                assert_eq!((now.file_id, now.key_check), (was.file_id, was.key_check));
                let after = page(&file);
                assert_eq!(after[..HEADER_LEN], after[HEADER_LEN..2 * HEADER_LEN]);
                assert_eq!(after[2 * HEADER_LEN..], before[2 * HEADER_LEN..]);
            }
            let meta = file.metadata().expect("there");
            assert_eq!((meta.mode() & 0o7777, meta.modified().expect("has one")), (0o4755, mtime));
        }
    }

    #[test]
    fn a_wrong_key_changes_nothing() {
        for suite in SUITES {
            let (file, before) = file(suite);
            let short = SecretBytes::copy_of(&[2; 8]).expect("fits");
            for key in [secret(9, suite), short] {
                let refused = rewrap(&keys(suite), file.as_fd(), wrapped("new"), &key);
                assert!(matches!(refused, Err(ContentError::WrongKey)), "{refused:?}");
            }
            let long = vec![Wrapping { blob: "b".repeat(950), ..wrapped("new")[0].clone() }];
            let refused = rewrap(&keys(suite), file.as_fd(), long, &secret(2, suite));
            assert!(matches!(refused, Err(ContentError::WrappingTooLong(_))), "{refused:?}");
            assert!(page(&file) == before);
        }
    }

    #[test]
    fn an_empty_file_has_no_header() {
        let file = tempfile::tempfile().expect("a file");
        rewrap_to(&file, "new", Suite::Aes256Gcm).expect("nothing to do");
        assert!(!finish(&keys(Suite::Aes256Gcm), file.as_fd()).expect("nothing to do"));
        assert_eq!(file.metadata().expect("there").len(), 0);
    }

    #[test]
    fn copies_that_differ_are_made_equal_before_anything_else() {
        let suite = Suite::Aes256Gcm;
        let (file, old) = file(suite);
        rewrap_to(&file, "new", suite).expect("re-wraps");
        let new = page(&file);
        let half = [&old[..HEADER_LEN], &new[HEADER_LEN..]].concat();
        let torn = |at: usize| {
            let mut torn = new;
            torn[at] ^= 1;
            torn.to_vec()
        };
        for begun in [half, torn(5), torn(HEADER_LEN + 5)] {
            file.write_all_at(&begun, 0).expect("writes");
            assert!(finish(&keys(suite), file.as_fd()).expect("finishes"));
            assert!(page(&file) == new);
            assert!(!finish(&keys(suite), file.as_fd()).expect("is finished"));
            file.write_all_at(&begun, 0).expect("writes");
            rewrap_to(&file, "newer", suite).expect("re-wraps");
            assert_eq!((header(&file, suite).generation, header(&file, suite).wrappings), (3, wrapped("newer")));
        }
        file.write_all_at(&[0; 2 * HEADER_LEN], 0).expect("writes");
        assert!(matches!(rewrap_to(&file, "new", suite), Err(ContentError::Header(HeaderError::Magic))));
        assert!(matches!(finish(&keys(suite), file.as_fd()), Err(ContentError::Header(HeaderError::Magic))));
    }

    /// The order of the calls: each copy is durable before the other is touched, and what counts is never written unless
    /// the other is sure to be good.
    #[test]
    fn one_copy_is_durable_before_the_other_is_written() {
        let suite = Suite::Aes256Gcm;
        let again = |file: &File| rewrap_to(file, "new", suite).expect("re-wraps");
        let (file, old) = file(suite);
        assert_eq!(calls(&file, &again), [Some(1024), None, Some(0), None]);
        file.write_all_at(&old[..HEADER_LEN], 0).expect("writes");
        let settled = [Some(1024), None, Some(0), None, Some(1024), None, Some(0), None];
        assert_eq!(calls(&file, &again), settled);
        file.write_all_at(&[1; 8], 1024).expect("writes");
        assert_eq!(calls(&file, &again)[..4], [Some(0), None, Some(1024), None]);
    }

    /// What a failed barrier was to make durable may never be, though the next one says nothing of it.
    #[test]
    fn after_a_failed_barrier_both_copies_are_written_before_one_is_relied_on() {
        let suite = Suite::Aes256Gcm;
        for failing in [1, 2] {
            let (file, _) = file(suite);
            let mut barriers = 0;
            tap::fail(Some(Box::new(move |call| {
                barriers += u32::from(call == tap::Call::Sync);
                (call == tap::Call::Sync && barriers == failing).then_some(tap::Fault::Error(Errno::IO))
            })));
            let failed = rewrap_to(&file, "new", suite);
            tap::fail(None);
            assert!(matches!(failed, Err(ContentError::Backing(Errno::IO))), "{failed:?}");
            let again = calls(&file, &|file| rewrap_to(file, "newer", suite).expect("re-wraps"));
            assert_eq!(again, [Some(1024), None, Some(0), None, Some(1024), None, Some(0), None], "{failing}");
        }
    }

    /// Whichever call fails, and however: a header is valid, by its old wrapping or its new one, and the next try ends it.
    #[test]
    fn a_call_that_fails_leaves_a_valid_header() {
        let suite = Suite::Aes256Gcm;
        let errors = [Errno::IO, Errno::NOSPC];
        let faults = errors.map(tap::Fault::Error).into_iter().chain([tap::Fault::Torn(700, Errno::IO)]);
        for (fault, lasting) in faults.flat_map(|fault| [(fault, false), (fault, true)]) {
            for first in 0.. {
                let (file, _) = file(suite);
                let (mut asked, mut failed) = (0, 0);
                let counted = std::rc::Rc::new(std::cell::Cell::new(0));
                let count = counted.clone();
                tap::fail(Some(Box::new(move |_| {
                    asked += 1;
                    let fails = if lasting { asked > first } else { asked == first + 1 };
                    failed += u32::from(fails);
                    count.set(failed);
                    fails.then_some(fault)
                })));
                let done = rewrap_to(&file, "new", suite);
                tap::fail(None);
                let now = header(&file, suite);
                assert!(now.wrappings == wrapped("old") || now.wrappings == wrapped("new"), "{fault:?} at {first}");
                if done.is_ok() {
                    assert_eq!(counted.get(), 0, "a failure is told");
                    break;
                }
                rewrap_to(&file, "new", suite).expect("re-wraps once the fault is over");
                assert!(page(&file)[..HEADER_LEN] == page(&file)[HEADER_LEN..2 * HEADER_LEN]);
                assert_eq!(header(&file, suite).wrappings, wrapped("new"));
            }
        }
    }
}
