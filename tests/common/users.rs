//! Acting as another user, for tests that run as root.

/// `nobody`, where it has its usual number; no name is looked up.
pub const NOBODY: u32 = 65534;

/// Runs `body` on a thread with these ids, no other groups and a umask of its own.
pub fn as_user<T: Send>(uid: u32, gid: u32, body: impl FnOnce() -> T + Send) -> T {
    as_member(uid, gid, &[], body)
}

/// As [`as_user`], with further groups.
pub fn as_member<T: Send>(uid: u32, gid: u32, groups: &[u32], body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: raw calls change the calling thread only, unlike those of the C library; the pointer is to a
            // slice that lives through the call.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FS), 0, "a umask of its own");
                assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `body` on a thread with this umask.
pub fn with_umask<T: Send>(umask: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: calls without pointers; the umask is this thread's own after the first.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FS), 0, "a umask of its own");
                libc::umask(umask);
            }
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
