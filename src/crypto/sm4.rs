//! SM4 (GB/T 32907-2016) and SM4-GCM (RFC 8998) in constant time: no look-up and no branch depends on a secret.
//!
//! [`Kernel`] says what computes: the fastest that the processor can do, found once. `tables` has the mathematics.

mod bitsliced;
mod keys;
// Without the kernels for x86-64, some constants have no user.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tables;

#[cfg(target_arch = "x86_64")]
mod aesni;
#[cfg(target_arch = "x86_64")]
mod gfni;
mod ghash;
#[cfg(target_arch = "x86_64")]
mod sliced;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use ::sm4::cipher::consts::{U1, U16};
use ::sm4::cipher::{
    Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, InOut, Key, KeyInit,
    KeySizeUser, ParBlocksSizeUser,
};
use subtle::ConstantTimeEq;

use self::ghash::Powers;
use self::keys::RoundKeys;
use super::Unverified;

/// What computes SM4, and GHASH with it. Made by [`Kernel::available`] and [`Kernel::fastest`] alone, so that a value
/// of it is proof that the processor has its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    GfniAvx512,
    #[cfg(target_arch = "x86_64")]
    GfniAvx2,
    #[cfg(target_arch = "x86_64")]
    VaesAvx2,
    #[cfg(target_arch = "x86_64")]
    AesAvx2,
    Bitsliced,
}

impl Kernel {
    /// All that this processor can do, the fastest first. Asks the processor each time.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let kinds = {
            let avx2 = is_x86_feature_detected!("avx2");
            let pclmulqdq = avx2 && is_x86_feature_detected!("pclmulqdq");
            let wide = pclmulqdq && is_x86_feature_detected!("vpclmulqdq");
            let gfni = wide && is_x86_feature_detected!("gfni");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            let aes = avx2 && is_x86_feature_detected!("aes");
            [
                (gfni && avx512, Kind::GfniAvx512),
                (gfni, Kind::GfniAvx2),
                (aes && wide && is_x86_feature_detected!("vaes"), Kind::VaesAvx2),
                (aes && pclmulqdq, Kind::AesAvx2),
                (true, Kind::Bitsliced),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let kinds = [(true, Kind::Bitsliced)];
        kinds.into_iter().filter(|(has, _)| *has).map(|(_, kind)| Self(kind))
    }

    /// The fastest of them, found once; another one where the environment names it, to be measured.
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Kernel> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let named = std::env::var(KERNEL_VARIABLE).ok();
            let named = named.and_then(|name| Self::available().find(|kernel| kernel.name() == name));
            named.or_else(|| Self::available().next()).expect("bits can be sliced everywhere")
        })
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::GfniAvx512 => "gfni-avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::GfniAvx2 => "gfni-avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::VaesAvx2 => "vaes-avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AesAvx2 => "aes-avx2",
            Kind::Bitsliced => "bitsliced",
        }
    }
}

/// `$run` of the module of a kernel other than the bitsliced one, else `$portable`.
macro_rules! by_kernel {
    ($kernel:expr, $run:ident($($argument:expr),*), $portable:expr) => {
        match $kernel.0 {
            // SAFETY: a `Kernel` is proof that the processor has what the module was compiled for.
            #[cfg(target_arch = "x86_64")]
            Kind::GfniAvx512 => unsafe { gfni::avx512::$run($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::GfniAvx2 => unsafe { gfni::avx2::$run($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::VaesAvx2 => unsafe { aesni::vaes::$run($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AesAvx2 => unsafe { aesni::aes_avx2::$run($($argument),*) },
            Kind::Bitsliced => $portable,
        }
    };
}

/// Names a kernel, as [`Kernel::name`] does. What this processor does not have is not used.
const KERNEL_VARIABLE: &str = "KMSFS_SM4_KERNEL";

/// The block cipher, encryption alone. Round keys are wiped on drop.
#[derive(Clone)]
pub struct Sm4 {
    kernel: Kernel,
    keys: RoundKeys,
}

impl Sm4 {
    pub fn with_kernel(kernel: Kernel, key: &[u8; 16]) -> Self {
        let mut cipher = Self { kernel, keys: RoundKeys::ZERO };
        cipher.set_key(key);
        cipher
    }

    fn set_key(&mut self, key: &[u8; 16]) {
        let keys = &mut self.keys;
        by_kernel!(self.kernel, expand(key, keys), bitsliced::expand(key, keys));
    }

    pub fn encrypt(&self, block: &[u8; 16]) -> [u8; 16] {
        let keys = &self.keys;
        by_kernel!(self.kernel, encrypt_block(keys, block), bitsliced::encrypt_block(keys, block))
    }

    /// The data xored with the keystream of the blocks that begin with `nonce` and a counter from `counter` on.
    fn ctr(&self, nonce: &[u8; 12], counter: u32, data: &mut [u8]) {
        let keys = &self.keys;
        by_kernel!(self.kernel, ctr(keys, nonce, counter, data), bitsliced::ctr(keys, nonce, counter, data));
    }
}

impl std::fmt::Debug for Sm4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sm4")
    }
}

impl KeySizeUser for Sm4 {
    type KeySize = U16;
}

impl KeyInit for Sm4 {
    fn new(key: &Key<Self>) -> Self {
        Self::with_kernel(Kernel::fastest(), key.as_ref())
    }
}

impl BlockSizeUser for Sm4 {
    type BlockSize = U16;
}

impl ParBlocksSizeUser for Sm4 {
    type ParBlocksSize = U1;
}

impl BlockCipherEncrypt for Sm4 {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherEncBackend for Sm4 {
    fn encrypt_block(&self, mut block: InOut<'_, '_, Block<Self>>) {
        let out = self.encrypt(block.get_in().as_ref());
        *block.get_out() = out.into();
    }
}

/// Bytes that GCM can seal under one nonce (NIST SP 800-38D section 5.2.1.1).
const DATA_MAX: u64 = (1 << 36) - 32;

/// SM4-GCM with nonces of 96 bits and tags of 128. Round keys and powers of the hash key are wiped on drop.
pub struct Sm4Gcm {
    cipher: Sm4,
    powers: Powers,
}

impl Sm4Gcm {
    pub fn kernel(&self) -> Kernel {
        self.cipher.kernel
    }

    /// In place on the heap, where it stays: what is moved would leave a copy behind.
    pub fn with_kernel(kernel: Kernel, key: &[u8; 16]) -> Box<Self> {
        let cipher = Sm4 { kernel, keys: RoundKeys::ZERO };
        let mut gcm = Box::new(Self { cipher, powers: Powers::ZERO });
        gcm.cipher.set_key(key);
        let (keys, powers) = (&gcm.cipher.keys, &mut gcm.powers);
        by_kernel!(kernel, powers(keys, powers), powers.set_key(&bitsliced::encrypt_block(keys, &[0; 16])));
        gcm
    }

    /// Encrypts `data` in place and gives its tag. The pair (key, `nonce`) **must never** be used again.
    ///
    /// # Panics
    /// If `data` is longer than GCM's 64 GiB.
    pub fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; 16] {
        assert!(data.len() as u64 <= DATA_MAX, "GCM seals less than 64 GiB at once");
        self.cipher.ctr(nonce, 2, data);
        self.tag(nonce, aad, data)
    }

    /// Decrypts `data` in place once it has verified; otherwise leaves it as it is.
    pub fn open(&self, nonce: &[u8; 12], aad: &[u8], tag: &[u8; 16], data: &mut [u8]) -> Result<(), Unverified> {
        if data.len() as u64 > DATA_MAX || bool::from(self.tag(nonce, aad, data).ct_ne(tag)) {
            return Err(Unverified);
        }
        self.cipher.ctr(nonce, 2, data);
        Ok(())
    }

    /// Of encrypted data.
    fn tag(&self, nonce: &[u8; 12], aad: &[u8], data: &[u8]) -> [u8; 16] {
        let (cipher, powers) = (&self.cipher, &self.powers);
        by_kernel!(cipher.kernel, tag(&cipher.keys, powers, nonce, aad, data), {
            let mut j0 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            j0[..12].copy_from_slice(nonce);
            ghash::portable_tag(powers, &cipher.encrypt(&j0), aad, data)
        })
    }
}

impl std::fmt::Debug for Sm4Gcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sm4Gcm")
    }
}
