//! The kernel's FUSE protocol (`include/uapi/linux/fuse.h`, version 7.45): the structures and numbers that this program
//! uses. All are in the machine's byte order; padding is named, and zero where it is sent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const VERSION: u32 = 7;
/// The minor version whose structures these are; the kernel takes the older of its own and this one.
pub const MINOR: u32 = 42;
/// Before it, replies have other sizes: kernels since Linux 4.2 are newer.
pub const OLDEST_MINOR: u32 = 23;

/// Numbers of requests.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
}

/// What INIT agrees on.
pub mod capability {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// The upper 32 bits count.
    pub const INIT_EXT: u64 = 1 << 30;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// `SetattrIn::valid`: which of its fields count.
pub mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `WriteIn::write_flags`: written back from the page cache.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `WriteIn::write_flags`: setuid and setgid go.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `OpenOut::open_flags`: what the kernel has of the file's pages stays.
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// Of a notification, in the place of an error.
pub const NOTIFY_INVAL_INODE: i32 = 2;

/// Structures of requests: any bytes are one.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
        pub struct $name { $(pub $field: $kind),* }
    )*};
}

/// Structures of answers: without padding that is not named.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
        pub struct $name { $(pub $field: $kind),* }
    )*};
}

requests! {
    /// 40 bytes before every request.
    InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, extension: u16, padding: u16 }
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11] }
    ForgetIn { nlookup: u64 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { newdir: u64 }
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    LinkIn { oldnodeid: u64 }
    OpenIn { flags: i32, open_flags: u32 }
    CreateIn { flags: i32, mode: u32, umask: u32, open_flags: u32 }
    /// Of RELEASE and RELEASEDIR.
    ReleaseIn { fh: u64, flags: i32, release_flags: u32, lock_owner: u64 }
    /// Of READ, READDIR and READDIRPLUS.
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    /// Of FSYNC and FSYNCDIR.
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// Without the fields of SETXATTR_EXT, which is not asked for.
    SetxattrIn { size: u32, flags: i32 }
    /// Of GETXATTR and LISTXATTR.
    GetxattrIn { size: u32, padding: u32 }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: i32, padding: u32 }
    LseekIn { fh: u64, offset: i64, whence: i32, padding: u32 }
    CopyFileRangeIn { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64 }
}

answers! {
    /// 16 bytes before every answer; `error` is 0 or a negative errno.
    OutHeader { len: u32, error: i32, unique: u64 }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        request_timeout: u16, unused: [u16; 11],
    }
    Attr {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    CreateOut { entry: EntryOut, open: OpenOut }
    WriteOut { size: u32, padding: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    GetxattrOut { size: u32, padding: u32 }
    LseekOut { offset: i64 }
    /// Before the name of an entry; all three together are filled up to a multiple of 8.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    DirentPlus { entry: EntryOut, dirent: Dirent }
    InvalInodeOut { ino: u64, off: i64, len: i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes as the kernel has them: `sizeof` of each in fuse.h.
    #[test]
    fn sizes_of_the_kernel() {
        let found = [
            size_of::<InHeader>(),
            size_of::<InitIn>(),
            size_of::<SetattrIn>(),
            size_of::<ReadIn>(),
            size_of::<WriteIn>(),
            size_of::<ReleaseIn>(),
            size_of::<CopyFileRangeIn>(),
            size_of::<OutHeader>(),
            size_of::<InitOut>(),
            size_of::<Attr>(),
            size_of::<EntryOut>(),
            size_of::<AttrOut>(),
            size_of::<OpenOut>(),
            size_of::<CreateOut>(),
            size_of::<StatfsOut>(),
            size_of::<Dirent>(),
            size_of::<DirentPlus>(),
            size_of::<InvalInodeOut>(),
        ];
        assert_eq!(found, [40, 64, 88, 40, 40, 24, 56, 16, 64, 88, 128, 104, 16, 144, 80, 24, 152, 24]);
    }
}
