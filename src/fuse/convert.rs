//! Between the protocol's types and the file system's own.

use std::time::{Duration, SystemTime};

use crate::fs::{Attr, Caller, SetAttr, SetTime};

use super::abi::{self, InHeader, SetattrIn, valid};

/// What `stat` says is the best size of a read.
const BLKSIZE: u32 = 4096;

pub fn caller(header: &InHeader, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, umask }
}

pub fn attr(attr: &Attr) -> abi::Attr {
    let (atime, atimensec) = since_epoch(attr.atime);
    let (mtime, mtimensec) = since_epoch(attr.mtime);
    let (ctime, ctimensec) = since_epoch(attr.ctime);
    abi::Attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode: attr.kind.as_raw_mode() | u32::from(attr.perm),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE,
        flags: 0,
    }
}

pub fn set_attr(set: &SetattrIn) -> SetAttr {
    let given = |flag| set.valid & flag != 0;
    let time = |at, now, secs, nanos| match (given(at), given(now)) {
        (false, _) => None,
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(time(secs, nanos))),
    };
    SetAttr {
        mode: given(valid::MODE).then_some(set.mode),
        uid: given(valid::UID).then_some(set.uid),
        gid: given(valid::GID).then_some(set.gid),
        size: given(valid::SIZE).then_some(set.size),
        atime: time(valid::ATIME, valid::ATIME_NOW, set.atime, set.atimensec),
        mtime: time(valid::MTIME, valid::MTIME_NOW, set.mtime, set.mtimensec),
    }
}

/// Whole seconds, which may be before 1970, and what comes on top.
fn time(secs: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let whole = if secs < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
    whole + Duration::from_nanos(nanos.into())
}

fn since_epoch(at: SystemTime) -> (i64, u32) {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(e) => {
            let before = e.duration();
            match before.subsec_nanos() {
                0 => ((before.as_secs() as i64).wrapping_neg(), 0),
                nanos => ((before.as_secs() as i64).wrapping_neg() - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970() {
        for (secs, nanos) in [(0, 0), (0, 1), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 300_000_000), (1 << 33, 5)] {
            assert_eq!(since_epoch(time(secs, nanos)), (secs, nanos));
        }
        let at = time(-2, 300_000_000);
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(at).unwrap(), Duration::from_millis(1700));
    }
}
