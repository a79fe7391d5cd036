//! A request of the kernel: its header, and its arguments one after the other.

use zerocopy::FromBytes;

use super::abi::InHeader;

/// What came does not have the form of its request. The kernel makes none such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A request whose arguments are still to be read, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub header: InHeader,
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// `bytes` are the whole request.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| Malformed)?;
        if header.len as usize != bytes.len() {
            return Err(Malformed);
        }
        Ok(Self { header, rest })
    }

    /// A structure of the protocol.
    pub fn take<T: FromBytes>(&mut self) -> Result<T, Malformed> {
        let (value, rest) = T::read_from_prefix(self.rest).map_err(|_| Malformed)?;
        self.rest = rest;
        Ok(value)
    }

    /// A text that ends with NUL, which is not part of it: a name, or the target of a symlink.
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[..4].copy_from_slice(&(40 + body.len() as u32).to_ne_bytes());
        bytes[4..8].copy_from_slice(&12u32.to_ne_bytes());
        bytes[16..24].copy_from_slice(&7u64.to_ne_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn arguments_in_their_order() {
        let mut body = 9u64.to_ne_bytes().to_vec();
        body.extend_from_slice(b"old\0new\0data");
        let bytes = message(&body);
        let mut request = Request::parse(&bytes).unwrap();
        assert_eq!((request.header.opcode, request.header.nodeid), (12, 7));
        assert_eq!(request.take::<u64>(), Ok(9));
        assert_eq!(request.text(), Ok(&b"old"[..]));
        assert_eq!(request.text(), Ok(&b"new"[..]));
        assert_eq!(request.bytes(4), Ok(&b"data"[..]));
        assert_eq!(request.bytes(1), Err(Malformed));
        assert_eq!(request.bytes(0), Ok(&b""[..]));
    }

    #[test]
    fn other_forms_are_refused() {
        let bytes = message(b"no end");
        assert_eq!(Request::parse(&bytes[..39]).unwrap_err(), Malformed, "shorter than a header");
        assert_eq!(Request::parse(&bytes[..45]).unwrap_err(), Malformed, "shorter than it says");
        let mut request = Request::parse(&bytes).unwrap();
        assert_eq!(request.take::<[u64; 2]>(), Err(Malformed));
        assert_eq!(request.text(), Err(Malformed));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Request::parse(&longer).unwrap_err(), Malformed, "longer than it says");
    }
}
