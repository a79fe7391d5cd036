//! Key bytes: made in place in locked memory, wiped on drop, never printed.
//!
//! All [`SecretBytes`] live in pages of their own that are locked (`mlock`), left out of core dumps (`MADV_DONTDUMP`)
//! and wiped in a child (`MADV_WIPEONFORK`). Where the limit on locked memory is reached, secrets still work, in pages
//! that are not locked; [`locking_failed`] tells, so that the caller can warn once.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use zeroize::Zeroize;

/// The longest secret: an AES-SIV-256 key has 64 bytes.
pub const SECRET_MAX: usize = 64;

const CHUNK_LEN: usize = 64 * 1024;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new() });
static LOCKING_FAILED: AtomicBool = AtomicBool::new(false);

/// True once some secret could not be put in locked memory.
pub fn locking_failed() -> bool {
    LOCKING_FAILED.load(Ordering::Relaxed)
}

/// Up to [`SECRET_MAX`] secret bytes. `Debug` prints the length only; comparison takes constant time.
pub struct SecretBytes {
    slot: Slot,
    len: u8,
}

impl SecretBytes {
    /// `len` zero bytes, to be filled in place.
    ///
    /// # Panics
    /// If `len` exceeds [`SECRET_MAX`]: lengths are constants of the suites, never input.
    pub fn zeroed(len: usize) -> Self {
        assert!(len <= SECRET_MAX, "a secret has at most {SECRET_MAX} bytes");
        Self { slot: Slot::take(), len: len as u8 }
    }

    /// A copy of `bytes`, or `None` if they are longer than [`SECRET_MAX`]. The caller wipes the original.
    pub fn copy_of(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > SECRET_MAX {
            return None;
        }
        let mut secret = Self::zeroed(bytes.len());
        secret.expose_mut().copy_from_slice(bytes);
        Some(secret)
    }

    /// The door from secret to bytes that can be changed.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is ours alone until drop and has SECRET_MAX initialised bytes.
        unsafe { std::slice::from_raw_parts_mut(self.slot.0.as_ptr(), self.len as usize) }
    }

    /// The one door from secret to bytes; every use says why.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: the slot is ours until drop and has SECRET_MAX initialised bytes.
        unsafe { std::slice::from_raw_parts(self.slot.0.as_ptr(), self.len as usize) }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Clone for SecretBytes {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len());
        copy.expose_mut().copy_from_slice(self.expose());
        copy
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.expose(), other.expose()).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.len)
    }
}

/// One place of [`SECRET_MAX`] bytes in locked memory; zeros when taken, wiped when given back.
struct Slot(NonNull<u8>);

// SAFETY: a slot is owned memory, reached through its one owner.
unsafe impl Send for Slot {}
// SAFETY: shared access only reads.
unsafe impl Sync for Slot {}

impl Slot {
    fn take() -> Self {
        let mut pool = POOL.lock();
        if pool.free.is_empty() {
            pool.grow();
        }
        pool.free.pop().expect("grow() adds slots")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the slot is SECRET_MAX bytes of ours.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), SECRET_MAX) }.zeroize();
        POOL.lock().free.push(Slot(self.0));
        // The pushed value is the owner now; `self` has no drop glue beyond this function.
    }
}

/// Free slots. Chunks are never given back: their number is bounded by the peak of live secrets.
struct Pool {
    free: Vec<Slot>,
}

impl Pool {
    fn grow(&mut self) {
        // SAFETY: a new anonymous private mapping, touching no other memory.
        let chunk = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                CHUNK_LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(chunk != libc::MAP_FAILED, "out of memory for keys");
        // SAFETY: the range is the mapping made above; failures are only less protection.
        unsafe {
            if libc::mlock(chunk, CHUNK_LEN) != 0 {
                LOCKING_FAILED.store(true, Ordering::Relaxed);
            }
            libc::madvise(chunk, CHUNK_LEN, libc::MADV_DONTDUMP);
            libc::madvise(chunk, CHUNK_LEN, libc::MADV_WIPEONFORK);
        }
        let first = NonNull::new(chunk.cast::<u8>()).expect("mmap never maps at zero");
        self.free.reserve(CHUNK_LEN / SECRET_MAX);
        for at in (0..CHUNK_LEN).step_by(SECRET_MAX) {
            // SAFETY: `at` stays inside the mapping.
            self.free.push(Slot(unsafe { first.add(at) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_wiped_before_it_is_used_again() {
        let secret = SecretBytes::copy_of(&[0xa5; 32]).expect("fits");
        let place = secret.slot.0;
        drop(secret);
        let pool = POOL.lock();
        if pool.free.iter().any(|slot| slot.0 == place) {
            // SAFETY: the slot is free and the pool is locked, so nobody writes there.
            let bytes = unsafe { std::slice::from_raw_parts(place.as_ptr(), SECRET_MAX) };
            assert!(bytes.iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn debug_shows_no_byte() {
        let secret = SecretBytes::copy_of(b"topsecret").expect("fits");
        assert_eq!(format!("{secret:?}"), "SecretBytes(9 bytes)");
    }

    #[test]
    fn too_long_is_refused() {
        assert!(SecretBytes::copy_of(&[0; SECRET_MAX + 1]).is_none());
    }

    #[test]
    fn copies_compare_equal_and_are_apart() {
        let a = SecretBytes::copy_of(&[7; 16]).expect("fits");
        let mut b = a.clone();
        assert_eq!(a, b);
        b.expose_mut()[0] = 8;
        assert_ne!(a, b);
    }
}
